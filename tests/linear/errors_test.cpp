// SPDX-License-Identifier: BSD-3-Clause

// Calls that linear attention refuses, forward and decode; what it shares with lightning is in
// lightning/errors_test.cpp.

#include <limits>

#include "support/catch.hpp"
#include "support/recurrent_case.hpp"
#include "support/recurrent_errors.hpp"
#include "support/vectors.hpp"

using namespace heed_test;

namespace {

struct call {
  linear_case<float> x{{2, 4, 2, 5, 7, 8, 6}};
  recurrent_call<float> c = x.call();
  heed::linear::options<float> options = x.options;
};

void refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend) {
  call c;
  bend(c);
  check_refusal(
      what, run_plan<float>(c.c, c.options, {}), [&] { run_forward<float>(c.c, c.options, {}); }, must);
  CHECK((c.x.o.untouched() && c.x.s1.untouched() && c.x.z1.untouched()));
}

}  // namespace

TEST_CASE("the call that the others bend is good") {
  call c;
  CHECK(run_plan<float>(c.c, c.options, {}).ok());
  CHECK(text_of_error([&] { run_forward<float>(c.c, c.options, {}); }).empty());
}

TEST_CASE("shapes, states, masks and values") {
  static const std::vector<std::int32_t> one{3};
  refused("heads of k", {"q", "k", "4", "3"}, [](call& c) { c.c.k = with(c.c.k, 1, 3), c.c.v = with(c.c.v, 1, 3); });
  refused("keys of v", {"k", "v", "7", "6"}, [](call& c) { c.c.v = with(c.c.v, 2, 6); });
  refused("o is v", {"o", "v"}, [](call& c) { c.c.o = at(c.c.o, &c.x.v(0, 0, 0)); });
  refused("features of a state", {"initial_state.s", "8", "73"},
          [](call& c) { c.options.feature = heed::feature::taylor; });
  refused("z of a state", {"initial_state.z", "8", "9"},
          [](call& c) { c.options.initial_state.z = with(c.options.initial_state.z, 2, 9); });
  refused("a state without z", {"final_state.z", "0"}, [](call& c) { c.options.final_state.z = {}; });
  refused("z without s", {"final_state.s", "0"}, [](call& c) { c.options.final_state.s = {}; });
  refused("s is z", {"final_state.s", "final_state.z"},
          [](call& c) { c.options.final_state.z = at(c.options.final_state.z, c.options.final_state.s.data()); });
  refused("z is the initial s", {"final_state.z", "initial_state.s"}, [](call& c) {
    c.options.initial_state.s =
        at(c.options.initial_state.s, static_cast<const float*>(c.options.final_state.z.data()));
  });
  refused("too wide for taylor", {"q", "head", "dim", "32768", "32767"}, [](call& c) {
    c.options.feature = heed::feature::taylor, c.c.q = with(c.c.q, 3, 32768), c.c.k = with(c.c.k, 3, 32768);
  });
  refused("no such feature", {"feature", "99"}, [](call& c) { c.options.feature = static_cast<heed::feature>(99); });
  refused("window", {"mask"}, [](call& c) { c.options.mask = heed::window(3); });
  refused("key_lengths", {"key_lengths", "1", "2"}, [](call& c) { c.options.mask = heed::key_lengths(one); });
  refused("first_place", {"first_place", "1", "2"}, [](call& c) { c.options.align = heed::first_place(one); });
  refused("end_of_lengths", {"align", "end_of_lengths", "key_lengths"},
          [](call& c) { c.options.align = heed::end_of_lengths; });
  refused("scale", {"scale"}, [](call& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); });
  refused("eps", {"eps"}, [](call& c) { c.options.eps = std::numeric_limits<double>::quiet_NaN(); });
  refused("chunk", {"chunk", "-2"}, [](call& c) { c.options.chunk = -2; });
}

TEST_CASE("decode: as many new queries as keys, and a memory with its normaliser") {
  call c;
  const auto check = [&](const char* what, heed::state_view<float> memory, const std::vector<std::string>& must) {
    check_refusal(
        what, run_plan_decode<float>(c.c, memory, c.options, {}),
        [&] { run_decode<float>(c.c, memory, c.options, {}); }, must);
    CHECK(c.x.o.untouched());
  };
  check("more keys", c.x.memory(), {"tokens", "5", "7"});
  c.c.k = with(c.c.k, 2, 5), c.c.v = with(c.c.v, 2, 5);
  c.options.align = heed::top_left;
  check("top_left", c.x.memory(), {"align", "top_left"});
  c.options.align = heed::bottom_right;
  const heed::state_view<float> memory = c.x.memory();
  check("z is s", {memory.s, at(memory.z, memory.s.data())}, {"memory.s", "memory.z"});
  check("no state", {}, {"memory.s", "null"});
  check("no normaliser", {c.x.s0.view(), {}}, {"memory.z", "null"});
  CHECK(text_of_error([&] { run_decode<float>(c.c, c.x.memory(), c.options, {}); }).empty());
}

TEST_CASE("a vector is one row of at most 1024; a whole tensor without its axes is refused, naming bhsd()") {
  CHECK(wrong_with_vectors(run_linear_vectors) == "");
}
