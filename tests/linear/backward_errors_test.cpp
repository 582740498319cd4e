// SPDX-License-Identifier: BSD-3-Clause

// Calls of linear::backward that are refused; what it shares with lightning is in lightning/backward_errors_test.cpp.

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/linear_backward_case.hpp"
#include "support/recurrent_errors.hpp"

using namespace heed_test;

namespace {

struct call {
  linear_backward_case<float> x{{2, 4, 2, 5, 7, 8, 6}, {.mask = heed::causal()}};
  backward_call<float> c = x.back();
  heed::linear::options<float> options = x.options;
  heed::linear::gradients<float> asked = x.asked;
};

void refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend) {
  call c;
  bend(c);
  check_refusal(
      what, run_plan_backward<float>(c.c, c.asked, c.options, {}),
      [&] { run_backward<float>(c.c, c.asked, c.options, {}); }, must);
  bool untouched = c.x.s1.untouched() && c.x.z1.untouched();
  for (const buffer<float>* const dx : {&c.x.dq, &c.x.dk, &c.x.dv, &c.x.ds0, &c.x.dz0})
    untouched = untouched && dx->untouched();
  CHECK(untouched);
}
const float* null = nullptr;

}  // namespace

TEST_CASE("backward: the call that the others bend is good") {
  call c;
  c.x.forward();
  CHECK(run_plan_backward<float>(c.c, c.asked, c.options, {}).ok());
  CHECK(text_of_error([&] { run_backward<float>(c.c, c.asked, c.options, {}); }).empty());
}

TEST_CASE("backward: shapes that disagree: both arguments and both numbers") {
  refused("batch of k", {"q", "k", "2", "3"}, [](call& c) { c.c.k = with(c.c.k, 0, 3); });
  refused("heads of k", {"q", "k", "4", "3"}, [](call& c) { c.c.k = with(c.c.k, 1, 3), c.c.v = with(c.c.v, 1, 3); });
  refused("keys of v", {"k", "v", "7", "6"}, [](call& c) { c.c.v = with(c.c.v, 2, 6); });
  refused("rows of o", {"q", "o", "5", "4"}, [](call& c) { c.c.o = with(c.c.o, 2, 4); });
  refused("width of o", {"v", "o", "6", "5"}, [](call& c) { c.c.o = with(c.c.o, 3, 5); });
  for (int axis = 0; axis < 4; ++axis) {
    refused("dout", {"dout", "9"}, [axis](call& c) { c.c.dout = with(c.c.dout, axis, 9); });
    refused("dq", {"dq", "q", "9"}, [axis](call& c) { c.asked.dq = with(c.asked.dq, axis, 9); });
    refused("dk", {"dk", "k", "9"}, [axis](call& c) { c.asked.dk = with(c.asked.dk, axis, 9); });
    refused("dv", {"dv", "v", "9"}, [axis](call& c) { c.asked.dv = with(c.asked.dv, axis, 9); });
    refused("dinitial_state", {"dinitial_state.s", "9"},
            [axis](call& c) { c.asked.dinitial_state.s = with(c.asked.dinitial_state.s, axis, 9); });
    refused("dfinal_state", {"dfinal_state.s", "9"},
            [axis](call& c) { c.asked.dfinal_state.s = with(c.asked.dfinal_state.s, axis, 9); });
    if (axis == 3) continue;
    refused("dinitial_state", {"dinitial_state.z", "9"},
            [axis](call& c) { c.asked.dinitial_state.z = with(c.asked.dinitial_state.z, axis, 9); });
    refused("dfinal_state", {"dfinal_state.z", "9"},
            [axis](call& c) { c.asked.dfinal_state.z = with(c.asked.dfinal_state.z, axis, 9); });
  }
  refused("features of a state", {"initial_state.s", "8", "73"},
          [](call& c) { c.options.feature = heed::feature::taylor; });
  refused("features of its gradient", {"dinitial_state.s", "8", "73"}, [](call& c) {
    c.options.feature = heed::feature::taylor, c.options.initial_state = {}, c.options.final_state = {};
    c.asked.dfinal_state = {};
  });
  for (const index_t bad : {std::numeric_limits<index_t>::min(), index_t{-1}, std::numeric_limits<index_t>::max()}) {
    refused("an extent that no memory has", {"dout"}, [=](call& c) { c.c.dout = with(c.c.dout, 2, bad); });
    refused("an extent that no memory has", {"dq"}, [=](call& c) { c.asked.dq = with(c.asked.dq, 1, bad); });
  }
}

TEST_CASE("backward: strides, null pointers") {
  refused("q not unit", {"q", "stride", "2"}, [](call& c) { c.c.q = strided(c.c.q); });
  refused("o not unit", {"o", "stride", "2"}, [](call& c) { c.c.o = strided(c.c.o); });
  refused("dout not unit", {"dout", "stride", "2"}, [](call& c) { c.c.dout = strided(c.c.dout); });
  refused("dq not unit", {"dq", "stride", "2"}, [](call& c) { c.asked.dq = strided(c.asked.dq); });
  refused("dk not unit", {"dk", "stride", "2"}, [](call& c) { c.asked.dk = strided(c.asked.dk); });
  refused("dv not unit", {"dv", "stride", "2"}, [](call& c) { c.asked.dv = strided(c.asked.dv); });
  refused("ds not unit", {"dinitial_state.s", "stride", "2"},
          [](call& c) { c.asked.dinitial_state.s = strided(c.asked.dinitial_state.s); });
  refused("null q", {"q", "null"}, [](call& c) { c.c.q = at(c.c.q, null); });
  refused("null o", {"o", "null"}, [](call& c) { c.c.o = at(c.c.o, null); });
  refused("null dout", {"dout", "null"}, [](call& c) { c.c.dout = at(c.c.dout, null); });
  const auto shared = [](auto x) {
    return heed::tensor_view<float, 4>(x.data(), {x.extent(0), x.extent(1), x.extent(2), x.extent(3)},
                                       {x.stride(0), 0, x.stride(2), x.stride(3)});
  };
  refused("one dq for all heads", {"dq", "stride", "0"}, [&](call& c) { c.asked.dq = shared(c.asked.dq); });
  refused("one dv for all heads", {"dv", "stride", "0"}, [&](call& c) { c.asked.dv = shared(c.asked.dv); });
  refused("one state for all heads", {"dinitial_state.s", "stride", "0"},
          [&](call& c) { c.asked.dinitial_state.s = shared(c.asked.dinitial_state.s); });
}

TEST_CASE("backward: a gradient is no other argument's memory") {
  const auto writable = [](const auto& x) { return const_cast<float*>(x.data()); };
  refused("dq is q", {"dq", "q"}, [&](call& c) { c.asked.dq = at(c.asked.dq, writable(c.c.q)); });
  refused("dk is k", {"dk", "k"}, [&](call& c) { c.asked.dk = at(c.asked.dk, writable(c.c.k)); });
  refused("dv is v", {"dv", "v"}, [&](call& c) { c.asked.dv = at(c.asked.dv, writable(c.c.v)); });
  refused("dv is o", {"dv", "o"}, [&](call& c) { c.asked.dv = at(c.asked.dv, writable(c.c.o)); });
  refused("dq is dout", {"dq", "dout"}, [&](call& c) { c.asked.dq = at(c.asked.dq, writable(c.c.dout)); });
  refused("dk is dv", {"dk", "dv"}, [&](call& c) { c.asked.dk = at(c.asked.dk, c.asked.dv.data()); });
  refused("dk is dq", {"dk", "dq"}, [&](call& c) { c.asked.dk = at(c.asked.dk, c.asked.dq.data()); });
  refused("ds is dq", {"dinitial_state.s", "dq"},
          [&](call& c) { c.asked.dinitial_state.s = at(c.asked.dinitial_state.s, c.asked.dq.data()); });
  refused("dz is ds", {"dinitial_state.z", "dinitial_state.s"},
          [&](call& c) { c.asked.dinitial_state.z = at(c.asked.dinitial_state.z, c.asked.dinitial_state.s.data()); });
  refused("ds is the initial state", {"dinitial_state.s", "initial_state.s"}, [&](call& c) {
    c.asked.dinitial_state.s = at(c.asked.dinitial_state.s, writable(c.options.initial_state.s));
  });
  refused("dz is the initial z", {"dinitial_state.z", "initial_state.z"}, [&](call& c) {
    c.asked.dinitial_state.z = at(c.asked.dinitial_state.z, writable(c.options.initial_state.z));
  });
  refused("dv is dfinal_state", {"dv", "dfinal_state.s"},
          [&](call& c) { c.asked.dv = at(c.asked.dv, writable(c.asked.dfinal_state.s)); });
  refused("the initial state is gone", {"initial_state.s", "final_state.s"},
          [&](call& c) { c.options.final_state.s = at(c.options.final_state.s, writable(c.options.initial_state.s)); });
}

TEST_CASE("backward: masks and values, as forward") {
  static const std::vector<std::int32_t> one{3}, wrong{8, 1};
  refused("window", {"mask"}, [](call& c) { c.options.mask = heed::window(3); });
  refused("key_lengths", {"key_lengths", "1", "2"}, [](call& c) { c.options.mask = heed::key_lengths(one); });
  refused("too long", {"key_lengths", "8", "7"}, [](call& c) { c.options.mask = heed::key_lengths(wrong); });
  refused("first_place", {"first_place", "1", "2"}, [](call& c) { c.options.align = heed::first_place(one); });
  refused("end_of_lengths", {"align", "end_of_lengths", "key_lengths"},
          [](call& c) { c.options.align = heed::end_of_lengths; });
  refused("no such feature", {"feature", "99"}, [](call& c) { c.options.feature = static_cast<heed::feature>(99); });
  refused("scale", {"scale"}, [](call& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); });
  refused("eps", {"eps"}, [](call& c) { c.options.eps = std::numeric_limits<double>::quiet_NaN(); });
  refused("chunk", {"chunk", "-2"}, [](call& c) { c.options.chunk = -2; });
  refused("a state without z", {"initial_state.z", "0"}, [](call& c) { c.options.initial_state.z = {}; });
}

TEST_CASE("backward: without normalize there is no z; nothing asked for is no work") {
  call c;
  c.options.normalize = false, c.options.initial_state.z = {}, c.options.final_state.z = {};
  c.asked.dinitial_state.z = {}, c.asked.dfinal_state.z = {};
  CHECK(run_plan_backward<float>(c.c, c.asked, c.options, {}).ok());
  const heed::plan nothing = run_plan_backward<float>(c.c, {}, c.options, {});
  CHECK((nothing.ok() && nothing.tasks == 0 && nothing.workspace_bytes == 0));
  run_backward<float>(c.c, {}, c.options, {});
}

// All rows of q are the same memory.
TEST_CASE("backward: with normalize, less than 1e17 rows of q") {
  constexpr index_t heads = 100000000, most = 1000000000 - 1;
  std::vector<float> row(8);
  const auto rows = [&](index_t of, index_t count) {
    return heed::tensor_view<const float, 4>(row.data(), {1, of, count, 8}, {0, 0, 0, 1});
  };
  const auto plan = [&](index_t queries, bool normalize) {
    const auto q = rows(heads, queries), k = rows(1, 1);
    return run_plan_backward<float>({q, k, k, q, q}, {}, {.normalize = normalize}, {});
  };
  CHECK(plan(most, true).ok());
  CHECK(plan(most + 1, false).ok());
  CHECK(says(plan(most + 1, true).problem.data(), "q has 1e+17 rows in all heads"));
}
