// SPDX-License-Identifier: BSD-3-Clause

// Calls that lightning attention refuses, forward and decode.

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_case.hpp"
#include "support/recurrent_errors.hpp"
#include "support/vectors.hpp"

using namespace heed_test;

namespace {

constexpr shape good{2, 4, 2, 5, 5, 8, 6};

struct call {
  lightning_case<float> x{good, {0.1, 0.2, 0.3, 0.4}};
  recurrent_call<float> c = x.call();
  heed::lightning::options<float> options = x.options;
  std::vector<double> slopes = x.slopes;
  heed::tensor_view<const float, 3> gates = {};
  heed::state_view<float> memory = {x.s0.view(), {}};
  bool null_slopes = false;
  heed::decay<float> decay() const {
    if (null_slopes) return heed::tensor_view<const float, 1>(nullptr, {4}, {1});
    return gates.data() != nullptr ? heed::decay<float>(gates) : heed::decay<float>(slopes);
  }
};

// An executor that claims more workers than there are
struct many_workers {
  index_t concurrency() const { return std::numeric_limits<index_t>::max(); }
  template <class F> void parallel_for(index_t n, F&& f) {
    for (index_t i = 0; i < n; ++i) f(i);
  }
  static many_workers& get() {
    static many_workers one;
    return one;
  }
};

// x with one sequence's numbers for all
template <class T> heed::tensor_view<T, 4> broadcast_sequences(const heed::tensor_view<T, 4>& x) {
  return {x.data(), {x.extent(0), x.extent(1), x.extent(2), x.extent(3)}, {0, x.stride(1), x.stride(2), x.stride(3)}};
}

void refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend) {
  call c;
  bend(c);
  check_refusal(
      what, run_plan<float>(c.c, c.decay(), c.options, {}), [&] { run_forward<float>(c.c, c.decay(), c.options, {}); },
      must);
  CHECK((c.x.o.untouched() && c.x.s1.untouched()));
}
void decode_refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend) {
  call c;
  bend(c);
  const auto before = c.x.s0.hash();
  check_refusal(
      what, run_plan_decode<float>(c.c, c.decay(), c.memory, c.options, {}),
      [&] { run_decode<float>(c.c, c.decay(), c.memory, c.options, {}); }, must);
  CHECK((c.x.o.untouched() && c.x.s0.hash() == before));
}

}  // namespace

TEST_CASE("the call that the others bend is good") {
  call c;
  CHECK(run_plan<float>(c.c, c.decay(), c.options, {}).ok());
  CHECK(run_plan_decode<float>(c.c, c.decay(), c.memory, c.options, {}).ok());
  CHECK(text_of_error([&] { run_forward<float>(c.c, c.decay(), c.options, {}); }).empty());
}

TEST_CASE("shapes that disagree: both arguments and both numbers") {
  refused("batch of k", {"q", "k", "2", "3"}, [](call& c) { c.c.k = with(c.c.k, 0, 3); });
  refused("batch of v", {"q", "v", "2", "1"}, [](call& c) { c.c.v = with(c.c.v, 0, 1); });
  refused("batch of o", {"q", "o", "2", "1"}, [](call& c) { c.c.o = with(c.c.o, 0, 1); });
  refused("heads of k", {"q", "k", "4", "3"}, [](call& c) { c.c.k = with(c.c.k, 1, 3), c.c.v = with(c.c.v, 1, 3); });
  refused("more heads of k", {"q", "k", "4", "8"},
          [](call& c) { c.c.k = with(c.c.k, 1, 8), c.c.v = with(c.c.v, 1, 8); });
  refused("heads of v", {"k", "v", "2", "1"}, [](call& c) { c.c.v = with(c.c.v, 1, 1); });
  refused("heads of o", {"q", "o", "4", "2"}, [](call& c) { c.c.o = with(c.c.o, 1, 2); });
  refused("more keys than queries", {"q", "k", "tokens", "5", "6"},
          [](call& c) { c.c.k = with(c.c.k, 2, 6), c.c.v = with(c.c.v, 2, 6); });
  refused("rows of v", {"k", "v", "5", "4"}, [](call& c) { c.c.v = with(c.c.v, 2, 4); });
  refused("rows of o", {"q", "o", "5", "4"}, [](call& c) { c.c.o = with(c.c.o, 2, 4); });
  refused("width of k", {"q", "k", "8", "7"}, [](call& c) { c.c.k = with(c.c.k, 3, 7); });
  refused("width of o", {"v", "o", "6", "5"}, [](call& c) { c.c.o = with(c.c.o, 3, 5); });
  refused("no width", {"q", "head", "dim", "0"}, [](call& c) { c.c.q = with(c.c.q, 3, 0), c.c.k = with(c.c.k, 3, 0); });
  refused("too wide", {"q", "head", "dim", "16777217", "16777216"},
          [](call& c) { c.c.q = with(c.c.q, 3, (1 << 24) + 1), c.c.k = with(c.c.k, 3, (1 << 24) + 1); });
  for (const index_t bad : {std::numeric_limits<index_t>::min(), std::numeric_limits<index_t>::max()})
    for (int axis = 0; axis < 4; ++axis)
      decode_refused("an extent that no memory has", {"q"}, [=](call& c) { c.c.q = with(c.c.q, axis, bad); });
  refused("negative extent", {"k", "-1"}, [](call& c) { c.c.k = with(c.c.k, 2, -1); });
}

TEST_CASE("strides, null pointers, outputs that are inputs") {
  refused("q not unit", {"q", "stride", "2"}, [](call& c) { c.c.q = strided(c.c.q); });
  refused("null k", {"k", "null"}, [](call& c) { c.c.k = at(c.c.k, static_cast<const float*>(nullptr)); });
  refused("o is q", {"o", "q"}, [](call& c) { c.c.o = at(c.c.o, &c.x.q(0, 0, 0)); });
  refused("final state is v", {"final_state.s", "v"},
          [](call& c) { c.options.final_state.s = at(c.options.final_state.s, &c.x.v(0, 0, 0)); });
  refused("final state for all sequences", {"final_state.s", "stride", "0"},
          [](call& c) { c.options.final_state.s = broadcast_sequences(c.options.final_state.s); });
  refused("final state is o", {"final_state.s", "o"},
          [](call& c) { c.options.final_state.s = at(c.options.final_state.s, &c.x.o(0, 0, 0)); });
  refused("initial state is o", {"initial_state.s", "o"}, [](call& c) {
    c.options.initial_state.s = at(c.options.initial_state.s, static_cast<const float*>(&c.x.o(0, 0, 0)));
  });
  refused("final state is the initial one, seen otherwise", {"final_state.s", "initial_state.s", "strides"},
          [](call& c) { c.options.initial_state.s = broadcast_sequences(c.options.final_state.s); });
  decode_refused("memory is k", {"memory.s", "k"}, [](call& c) { c.memory.s = at(c.memory.s, &c.x.k(0, 0, 0)); });
}

TEST_CASE("decays: as many as q or k has heads, slopes not negative, gates of the shape of the tokens") {
  refused("three slopes", {"slopes", "3", "4", "2"}, [](call& c) { c.slopes.pop_back(); });
  refused("a negative slope", {"slopes", "1", "-0.5"}, [](call& c) { c.slopes[1] = -0.5; });
  refused("a slope that is none", {"slopes", "2", "nan"},
          [](call& c) { c.slopes[2] = std::numeric_limits<double>::quiet_NaN(); });
  refused("null slopes", {"slopes", "null", "4"}, [](call& c) { c.null_slopes = true; });
  call aliased;
  for (index_t e = 0; e < 4; ++e) aliased.x.o(0, 0, 0, e) = 0.1f;
  const heed::tensor_view<const float, 1> same(&aliased.x.o(0, 0, 0), {4}, {1});
  check_refusal("slopes are o", run_plan<float>(aliased.c, same, aliased.options, {}),
                [&] { run_forward<float>(aliased.c, same, aliased.options, {}); }, {"o", "slopes", "memory"});
  static const float g[100] = {};
  refused("heads of gates", {"log_gates", "3"}, [](call& c) { c.gates = {g, {2, 3, 5}, {15, 5, 1}}; });
  refused("length of gates", {"log_gates", "4", "5"}, [](call& c) { c.gates = {g, {2, 4, 4}, {20, 5, 1}}; });
  refused("gates are o", {"o", "log_gates", "memory"}, [](call& c) {
    c.gates = {c.c.o.data(), {2, 4, 5}, {20, 5, 1}};
  });
  refused("gates are the final state", {"final_state.s", "log_gates", "memory"}, [](call& c) {
    c.gates = {c.options.final_state.s.data(), {2, 4, 5}, {20, 5, 1}};
  });
  refused("batch of gates", {"log_gates", "1", "2"}, [](call& c) { c.gates = {g, {1, 4, 5}, {20, 5, 1}}; });
}

TEST_CASE("states: one per sequence and head of the decay, D by E, unit stride") {
  for (int axis = 0; axis < 4; ++axis) {
    refused("initial", {"initial_state.s", "9"},
            [axis](call& c) { c.options.initial_state.s = with(c.options.initial_state.s, axis, 9); });
    refused("final", {"final_state.s", "9"},
            [axis](call& c) { c.options.final_state.s = with(c.options.final_state.s, axis, 9); });
    decode_refused("memory", {"memory.s", "9"}, [axis](call& c) { c.memory.s = with(c.memory.s, axis, 9); });
  }
  refused("Hk slopes with H states", {"initial_state.s", "4", "2"}, [](call& c) { c.slopes.resize(2); });
  refused("strided state", {"final_state.s", "stride", "2"},
          [](call& c) { c.options.final_state.s = strided(c.options.final_state.s); });
  decode_refused("no memory", {"memory.s", "null"}, [](call& c) { c.memory = {}; });
}

TEST_CASE("masks and values") {
  static const std::vector<std::int32_t> wrong{6, 1}, negative{-1, 1}, one{3}, offsets{0, 3, 5}, other{0, 2, 5};
  refused("causal", {"mask"}, [](call& c) { c.options.mask = heed::causal(); });
  refused("window", {"mask"}, [](call& c) { c.options.mask = heed::window(3); });
  refused("too long", {"key_lengths", "6", "5"}, [](call& c) { c.options.mask = heed::key_lengths(wrong); });
  refused("negative", {"key_lengths", "-1"}, [](call& c) { c.options.mask = heed::key_lengths(negative); });
  refused("too few", {"key_lengths", "1", "2"}, [](call& c) { c.options.mask = heed::key_lengths(one); });
  refused("packed with a batch", {"packed", "2", "1"},
          [](call& c) { c.options.mask = heed::packed(offsets, offsets); });
  refused("two token axes", {"packed"}, [](call& c) {
    for (auto* x : {&c.c.q, &c.c.k, &c.c.v}) *x = with(*x, 0, 1);
    c.c.o = with(c.c.o, 0, 1);
    c.options.mask = heed::packed(offsets, other);
  });
  refused("scale", {"scale"}, [](call& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); });
  refused("chunk", {"chunk", "-1"}, [](call& c) { c.options.chunk = -1; });
}

TEST_CASE("chunks of any length may be asked for, scratch does not grow with them") {
  const shape s{1, 1, 1, 10000, 10000, 8, 6};
  lightning_case<float> x(s, {0.1}, {.chunk = std::numeric_limits<index_t>::max()});
  CHECK(x.plan().chunk == 4096);
}

TEST_CASE("any number of workers may be there") {
  call c;
  CHECK(run_plan<float>(c.c, c.decay(), c.options, {.executor = many_workers::get()}).ok());
}

TEST_CASE("sizes and strides of calls that no memory can hold: a problem, or not read") {
  constexpr index_t many = std::numeric_limits<std::int32_t>::max(), far = std::numeric_limits<index_t>::max();
  const float number = 0;
  float out[4] = {}, memory = 2;
  const std::vector<double> slope{0.5};
  const auto plan = [&](index_t batch, index_t tokens, index_t e, const heed::context& where) {
    const heed::tensor_view<const float, 4> x(&number, {batch, 1, tokens, e}, {0, 0, 0, 1});
    const heed::tensor_view<float, 4> o(out, {batch, 1, tokens, e}, {1, 1, 1, 1});
    return run_plan<float>({x, x, x, o}, slope, {}, where);
  };
  const heed::plan large = plan(many, many, 1 << 24, {.executor = many_workers::get()});
  INFO(large.problem.data());
  CHECK(large.ok());
  CHECK(large.workspace_bytes > std::size_t{1024} * (std::size_t{1} << 48));  // a state for each of 1024 workers
  CHECK(plan(many, 0, 8, {}).tasks == 0);

  const auto one = [&](float* x) { return heed::tensor_view<float, 4>(x, {1, 1, 1, 1}, {far, far, far, 1}); };
  float q = 3, k = 5, v = 7;
  const heed::lightning::options<float> with_state{.initial_state = {one(&memory), {}}};
  run_forward<float>({one(&q), one(&k), one(&v), one(out)}, slope, with_state, {});
  CHECK(out[0] == Approx(3 * (5 * 7 + std::exp(-0.5) * 2)));
  run_decode<float>({one(&q), one(&k), one(&v), one(out)}, slope, {one(&memory), {}}, {}, {});
  CHECK(out[0] == Approx(3 * (5 * 7 + std::exp(-0.5) * 2)));
}

TEST_CASE("nothing to do is legal, whatever the pointers") {
  for (int axis = 0; axis < 3; ++axis) {
    call c;
    const auto empty = [axis](auto x) { return at(with(x, axis, 0), static_cast<decltype(x.data())>(nullptr)); };
    c.c = {empty(c.c.q), empty(c.c.k), empty(c.c.v), empty(c.c.o)};
    c.options.initial_state = {}, c.options.final_state = {};
    if (axis == 1) c.slopes.clear();
    INFO("axis " << axis);
    CHECK(text_of_error([&] { run_forward<float>(c.c, c.decay(), c.options, {}); }).empty());
  }
}

TEST_CASE("a vector is one row of at most 1024; a whole tensor without its axes is refused, naming bhsd()") {
  CHECK(wrong_with_vectors(run_lightning_vectors) == "");
}
