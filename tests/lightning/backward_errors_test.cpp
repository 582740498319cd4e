// SPDX-License-Identifier: BSD-3-Clause

// Calls of lightning::backward that are refused.

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/lightning_backward_case.hpp"
#include "support/recurrent_errors.hpp"

using namespace heed_test;

namespace {

constexpr shape good{2, 4, 2, 5, 5, 8, 6};

struct call {
  lightning_backward_case<float> x;
  backward_call<float> c = x.back();
  heed::lightning::options<float> options = x.options;
  heed::lightning::gradients<float> asked = x.asked;
  std::vector<double> slopes = x.slopes;
  heed::tensor_view<const float, 3> gates =
      x.gated ? heed::tensor_view<const float, 3>(x.gates.view3()) : heed::tensor_view<const float, 3>();

  explicit call(bool gated)
      : x(gated ? lightning_backward_case<float>(good, 4, 9)
                : lightning_backward_case<float>(good, {0.1, 0.2, 0.3, 0.4})) {}
  heed::decay<float> decay() const {
    return gates.data() != nullptr ? heed::decay<float>(gates) : heed::decay<float>(slopes);
  }
};

void refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend,
             bool gated = false) {
  call c(gated);
  bend(c);
  check_refusal(
      what, run_plan_backward<float>(c.c, c.decay(), c.asked, c.options, {}),
      [&] { run_backward<float>(c.c, c.decay(), c.asked, c.options, {}); }, must);
  bool untouched = c.x.s1.untouched();
  for (const buffer<float>* const dx : {&c.x.dq, &c.x.dk, &c.x.dv, &c.x.ds0, &c.x.dslopes, &c.x.dgates})
    untouched = untouched && dx->untouched();
  CHECK(untouched);
}
void gates_refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend) {
  refused(what, must, bend, true);
}
const float* null = nullptr;
float* writable(const heed::tensor_view<const float, 4>& x) { return const_cast<float*>(x.data()); }

}  // namespace

TEST_CASE("backward: the calls that the others bend are good") {
  for (const bool gated : {false, true}) {
    call c(gated);
    CHECK(run_plan_backward<float>(c.c, c.decay(), c.asked, c.options, {}).ok());
    CHECK(text_of_error([&] { run_backward<float>(c.c, c.decay(), c.asked, c.options, {}); }).empty());
  }
}

TEST_CASE("backward: shapes that disagree: both arguments and both numbers") {
  refused("batch of v", {"q", "v", "2", "1"}, [](call& c) { c.c.v = with(c.c.v, 0, 1); });
  refused("heads of k", {"q", "k", "4", "3"}, [](call& c) { c.c.k = with(c.c.k, 1, 3), c.c.v = with(c.c.v, 1, 3); });
  refused("more keys than queries", {"q", "k", "tokens", "5", "6"},
          [](call& c) { c.c.k = with(c.c.k, 2, 6), c.c.v = with(c.c.v, 2, 6); });
  refused("width of k", {"q", "k", "8", "7"}, [](call& c) { c.c.k = with(c.c.k, 3, 7); });
  refused("heads of dout", {"q", "dout", "4", "2"}, [](call& c) { c.c.dout = with(c.c.dout, 1, 2); });
  refused("rows of dout", {"q", "dout", "5", "4"}, [](call& c) { c.c.dout = with(c.c.dout, 2, 4); });
  refused("width of dout", {"v", "dout", "6", "5"}, [](call& c) { c.c.dout = with(c.c.dout, 3, 5); });
  for (int axis = 0; axis < 4; ++axis) {
    refused("dq", {"dq", "q", "9"}, [axis](call& c) { c.asked.dq = with(c.asked.dq, axis, 9); });
    refused("dk", {"dk", "k", "9"}, [axis](call& c) { c.asked.dk = with(c.asked.dk, axis, 9); });
    refused("dv", {"dv", "v", "9"}, [axis](call& c) { c.asked.dv = with(c.asked.dv, axis, 9); });
    refused("initial_state", {"initial_state.s", "9"},
            [axis](call& c) { c.options.initial_state.s = with(c.options.initial_state.s, axis, 9); });
    refused("dinitial_state", {"dinitial_state.s", "9"},
            [axis](call& c) { c.asked.dinitial_state.s = with(c.asked.dinitial_state.s, axis, 9); });
    refused("dfinal_state", {"dfinal_state.s", "9"},
            [axis](call& c) { c.asked.dfinal_state.s = with(c.asked.dfinal_state.s, axis, 9); });
    if (axis < 3)
      gates_refused("dlog_gates", {"dlog_gates", "log_gates", "9"},
                    [axis](call& c) { c.asked.dlog_gates = with(c.asked.dlog_gates, axis, 9); });
  }
  refused("dslopes", {"dslopes", "3", "4"}, [](call& c) { c.asked.dslopes = with(c.asked.dslopes, 0, 3); });
}

TEST_CASE("backward: the gradient of the decay that there is") {
  refused("dlog_gates of slopes", {"dlog_gates", "slopes"},
          [](call& c) { c.asked.dlog_gates = {&c.x.s1(0, 0, 0), {2, 4, 5}, {20, 5, 1}}; });
  gates_refused("dslopes of gates", {"dslopes", "log_gates"},
                [](call& c) { c.asked.dslopes = {&c.x.s1(0, 0, 0), {4}, {1}}; });
  refused("a negative slope", {"slopes", "1", "-0.5"}, [](call& c) { c.slopes[1] = -0.5; });
  refused("three slopes", {"slopes", "3", "4", "2"}, [](call& c) { c.slopes.pop_back(); });
  gates_refused("length of gates", {"log_gates", "4", "5"},
                [](call& c) { c.gates = {c.gates.data(), {2, 4, 4}, {20, 5, 1}}; });
}

TEST_CASE("backward: strides, null pointers") {
  refused("dout not unit", {"dout", "stride", "2"}, [](call& c) { c.c.dout = strided(c.c.dout); });
  refused("dq not unit", {"dq", "stride", "2"}, [](call& c) { c.asked.dq = strided(c.asked.dq); });
  refused("dk not unit", {"dk", "stride", "2"}, [](call& c) { c.asked.dk = strided(c.asked.dk); });
  refused("dv not unit", {"dv", "stride", "2"}, [](call& c) { c.asked.dv = strided(c.asked.dv); });
  refused("null k", {"k", "null"}, [](call& c) { c.c.k = at(c.c.k, null); });
  refused("null dout", {"dout", "null"}, [](call& c) { c.c.dout = at(c.c.dout, null); });
  refused("one slope's gradient for all", {"dslopes", "stride", "0"},
          [](call& c) { c.asked.dslopes = {c.asked.dslopes.data(), {4}, {0}}; });
  gates_refused("one gate's gradient for all", {"dlog_gates", "stride", "0"},
                [](call& c) { c.asked.dlog_gates = {c.asked.dlog_gates.data(), {2, 4, 5}, {20, 5, 0}}; });
}

TEST_CASE("backward: a gradient is no other argument's memory") {
  refused("dq is q", {"dq", "q"}, [](call& c) { c.asked.dq = at(c.asked.dq, writable(c.c.q)); });
  refused("dk is v", {"dk", "v"}, [](call& c) { c.asked.dk = at(c.asked.dk, writable(c.c.v)); });
  refused("dv is dout", {"dv", "dout"}, [](call& c) { c.asked.dv = at(c.asked.dv, writable(c.c.dout)); });
  refused("dk is dv", {"dk", "dv"}, [](call& c) { c.asked.dk = at(c.asked.dk, c.asked.dv.data()); });
  refused("ds is the initial state", {"dinitial_state.s", "initial_state.s"}, [](call& c) {
    c.asked.dinitial_state.s = at(c.asked.dinitial_state.s, writable(c.options.initial_state.s));
  });
  refused("ds is dfinal_state in other strides", {"dinitial_state.s", "dfinal_state.s", "strides"}, [](call& c) {
    auto& s = c.asked.dfinal_state.s;
    s = {c.asked.dinitial_state.s.data(),
         {s.extent(0), s.extent(1), s.extent(2), s.extent(3)},
         {0, s.stride(1), s.stride(2), s.stride(3)}};
  });
  refused("dslopes is dq", {"dslopes", "dq"},
          [](call& c) { c.asked.dslopes = at(c.asked.dslopes, c.asked.dq.data()); });
  gates_refused("dlog_gates is log_gates", {"dlog_gates", "log_gates"},
                [](call& c) { c.asked.dlog_gates = at(c.asked.dlog_gates, const_cast<float*>(c.gates.data())); });
  refused("the initial state is gone", {"initial_state.s", "final_state.s"},
          [](call& c) { c.options.final_state.s = at(c.options.final_state.s, writable(c.options.initial_state.s)); });
  call aliased(false);  // slopes in the memory of a gradient
  for (index_t i = 0; i < 4; ++i) aliased.x.dq(0, 0, 0, i) = 0.1f;
  const heed::tensor_view<const float, 1> same(&aliased.x.dq(0, 0, 0), {4}, {1});
  check_refusal("slopes are dq", run_plan_backward<float>(aliased.c, same, aliased.asked, aliased.options, {}),
                [&] { run_backward<float>(aliased.c, same, aliased.asked, aliased.options, {}); }, {"dq", "slopes"});
}

TEST_CASE("backward: masks and values, as forward") {
  static const std::vector<std::int32_t> wrong{6, 1}, offsets{0, 3, 5}, other{0, 2, 5};
  refused("causal", {"mask"}, [](call& c) { c.options.mask = heed::causal(); });
  refused("too long", {"key_lengths", "6", "5"}, [](call& c) { c.options.mask = heed::key_lengths(wrong); });
  refused("packed with a batch", {"packed", "2", "1"},
          [](call& c) { c.options.mask = heed::packed(offsets, offsets); });
  refused("scale", {"scale"}, [](call& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); });
  refused("chunk", {"chunk", "-1"}, [](call& c) { c.options.chunk = -1; });
}

TEST_CASE("backward: nothing asked for is no work") {
  call c(false);
  const heed::plan nothing = run_plan_backward<float>(c.c, c.decay(), {}, c.options, {});
  CHECK((nothing.ok() && nothing.tasks == 0 && nothing.workspace_bytes == 0));
  run_backward<float>(c.c, c.decay(), {}, c.options, {});
}
