// SPDX-License-Identifier: BSD-3-Clause

// mixture_of_head::decode beside the reference: gates of every pattern in every kind of cache; errors, bits, memory.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/counting_new.hpp"
#include "support/decode_errors.hpp"
#include "support/executor.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

enum class gating { ones, random, sparse, one_head, none };
constexpr gating gatings[] = {gating::ones, gating::random, gating::sparse, gating::one_head, gating::none};

template <class T> struct gated_case : decode_case<T> {
  buffer<T> gates;  // (batch, head, seq)

  explicit gated_case(const decode_problem& problem, gating how = gating::random,
                      const heed::softmax::options<T>& with = {}, layout in = layout::bhsd)
      : decode_case<T>(problem, with), gates(buffer<T>::input({this->s.batch, this->s.heads, this->s.queries, 1}, in)) {
    random_numbers random(9);
    index_t count = 0;
    gates.each([&](T& gate) {
      const double x = random.uniform();
      const index_t h = count++ / this->s.queries % this->s.heads;
      const bool on = how == gating::ones || (how == gating::random && x < 0.5) ||
                      (how == gating::sparse && x < 0.15) || (how == gating::one_head && h == this->s.heads / 2);
      gate = static_cast<T>(!on ? (x < 0.7 ? 0.0 : -0.0) : how == gating::ones ? 1 : random.normal() + 0.01);
    });
  }
  decode_gates<T> gate_view() const { return gates.view3(); }
  void mix(const heed::context& ctx = {}) {
    this->run([&](const decode_call<T>& x) { run_decode<T>(x, gate_view(), this->options, ctx); });
  }
  heed::plan mix_plan(const heed::context& ctx = {}) const {
    return plan_decode<T>(this->call(), gate_view(), this->options, ctx);
  }
};

template <class T> void check_gated(gated_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.p));
  const heed::plan plan = x.mix_plan(ctx);
  const decode_gates<T> gates = x.gate_view();
  if constexpr (!std::is_same_v<T, double>) x.stored_q.take(x.q);
  const std::uint64_t before = x.hash() ^ x.gates.hash();
  x.mix(ctx);
  const bool unchanged = (x.hash() ^ x.gates.hash()) == before, rounded = decode_rounds_weights(plan);
  if (rounded) round_queries(x.q);
  const verdict result = compare(x, expected_of(x, x.options, &gates), rounded, &gates);
  INFO(plan.path << "; " << plan.problem.data() << ": " << result.where);
  const bool canaries = x.kept_canaries(), filled = x.filled();
  CHECK(plan.ok());
  CHECK(result.worst <= 1);
  CHECK(unchanged);
  CHECK(canaries);
  CHECK(filled);
}

const decode_problem some_problems[] = {
    {4, 2, 1, 20, 12, {170, 33}}, {8, 1, 5, 12, 16, {90, 4}}, {16, 2, 1, 8, 9, {70, 129}}, {4, 4, 17, 16, 8, {140}}};

}  // namespace

TEST_CASE("mixture_of_head decode: gates of every pattern, caches of every kind and storage type") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems)
    for (const gating how : gatings)
      for (std::size_t kind = 0; kind < 9; ++kind)
        for (const kept type : all_kept) {
          if (turn++ % thinning != 0) continue;
          decode_problem stored = p;
          stored.cache = some_cache(kind, p.longest()), stored.stored_kv = type;
          gated_case<float> x(stored, how, {.mask = turn % 2 == 0 ? heed::causal() : heed::mask{}},
                              turn % 3 == 0 ? layout::bshd : layout::bhsd);
          check_gated(x);
          if (type != kept::f32) continue;
          gated_case<double> y(stored, how, {.mask = heed::causal()});
          check_gated(y);
        }
}

TEST_CASE("mixture_of_head decode: any number of rows on a cache of bf16, which may run on dot products") {
  std::size_t turn = 0;
  for (const index_t group : {5, 16})
    for (const index_t n : {1, 3, 9})
      for (const gating how : gatings) {
        if (turn++ % thinning != 0) continue;
        decode_problem p{group * 2, 2, n, 32, 64, {150, 47}, some_cache(turn, 150)};
        p.stored_kv = kept::bf16;
        gated_case<float> x(p, how, {.mask = heed::causal()});
        check_gated(x);
      }
}

TEST_CASE("mixture_of_head decode: every option") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems) {
    const option_parts<float> parts(p.as_shape());
    for (const auto& part : parts.all) {
      if (part.name == "top_left" || part.kind == part_kind::key_lengths) continue;
      decode_problem stored = p;
      stored.cache = some_cache(turn++, p.longest());
      INFO(part.name);
      gated_case<float> x(stored, gatings[turn % 4], parts.of({&part}, parts.whole()));
      check_gated(x);
    }
  }
}

TEST_CASE("mixture_of_head decode: gates that are NaN, infinite or subnormal; lengths of 0 and per head") {
  for (const index_t group : {1, 4, 8})
    for (const index_t n : {1, 3}) {
      const decode_problem p{2 * group, 2, n, 16, 12, {80, 5, 0}};
      for (const float gate :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -2.5f}) {
        gated_case<float> x(p, gating::random, {.mask = heed::causal()});
        x.gates(0, 1, 0) = x.gates(1, 0, 0) = x.gates(2, 0, 0) = gate;
        check_gated(x);
      }
      gated_case<float> tiny(p, gating::ones);
      tiny.gates.fill(0x1p-140f);
      check_gated(tiny);
      CHECK(tiny.o(0, 1, 0, 3) == 0);
      decode_problem each = p;
      each.per_head = true, each.lengths = {80, 0, 5, 33};
      gated_case<float> y(each, gating::random, {.mask = heed::causal(), .sink_logits = 0.5});
      check_gated(y);
    }
}

TEST_CASE("mixture_of_head decode: all gates 1 are the bits of softmax where both run the same") {
  for (const decode_problem& p : some_problems) {
    gated_case<float> x(p, gating::ones, {.mask = heed::causal()});
    decode_case<float> plain(p, {.mask = heed::causal()});
    x.mix(), plain.run([&](const decode_call<float>& c) { run_decode<float>(c, plain.options, {}); });
    CHECK(same_results<float>(x, plain));
  }
}

TEST_CASE("mixture_of_head decode: the same bits for 1 to 8 workers, caches and layouts of gates") {
  for (const decode_problem& problem :
       {decode_problem{8, 2, 1, 16, 12, {1500, 3, 700}}, {4, 4, 3, 8, 8, {900}}, {16, 1, 2, 8, 8, {40, 2000}}}) {
    decode_problem p = problem;
    gated_case<float> serial(p, gating::random, {.mask = heed::causal()});
    check_gated(serial);
    for (index_t workers = 1; workers <= 8; ++workers)
      for (const order in : {order::forward, order::reversed, order::shuffled}) {
        test_executor executor(workers, in, workers % 3 == 0);
        gated_case<float> x(p, gating::random, {.mask = heed::causal()});
        x.mix({.executor = executor});
        CHECK(same_results(x, serial));
      }
    for (const cache_setup& cache : whole_caches(p.longest(), 2)) {
      p.cache = cache;
      gated_case<float> x(p, gating::random, {.mask = heed::causal()});
      x.mix();
      INFO(to_string(p));
      CHECK(same_results(x, serial));
    }
  }
}

TEST_CASE("mixture_of_head decode: the workspace of one plan is enough for every length, without allocation") {
  for (const index_t group : {1, 8}) {
    const decode_problem p{2 * group, 2, 1, 16, 16, {2000, 2000}};
    gated_case<float> x(p, gating::random), y(p, gating::random);
    x.rows.lengths = {1, 1};
    std::vector<std::byte> memory(x.mix_plan().workspace_bytes);
    for (const std::int32_t length : {0, 17, 700, 2000}) {
      x.rows.lengths = y.rows.lengths = {length, length / 2};
      const decode_call<float> call = x.call();
      const decode_gates<float> gates = x.gate_view();
      const long before = allocations;
      run_decode<float>(call, gates, x.options, {.workspace = memory});
      const long after = allocations;
      CHECK(after == before);
      x.stored_o.copy_to(x.o), y.mix();
      CHECK(same_results(x, y));
    }
  }
}

TEST_CASE("mixture_of_head decode: errors") {
  const decode_problem good{4, 2, 2, 8, 6, {20, 11}, {cache_kind::ring, 13, 3}};
  std::vector<float> gates(100, 1.f);
  heed::tensor_view<const float, 3> view;
  const auto refused = [&](const std::vector<std::string>& must, const bending<float>& bend) {
    view = {gates.data(), {2, 4, 2}, {8, 2, 1}};
    refused_by<float>([&](const auto& c) { run_decode<float>(c.call(), view, c.options, {}); },
                      [&](const auto& c) { return plan_decode<float>(c.call(), view, c.options, {}); }, good, must,
                      bend);
  };
  using call = decode_to_bend<float>;
  refused({"gates", "3", "4"}, [&](call&) { view = {gates.data(), {2, 3, 2}, {6, 2, 1}}; });
  refused({"gates", "1", "2"}, [&](call&) { view = {gates.data(), {1, 4, 2}, {8, 2, 1}}; });
  refused({"gates", "1", "2"}, [&](call&) { view = {gates.data(), {2, 4, 1}, {8, 2, 1}}; });
  refused({"gates"}, [&](call&) { view = {nullptr, {2, 4, 2}, {8, 2, 1}}; });
  refused({"key_lengths"}, [](call& c) { c.options.mask = heed::key_lengths({5, 5}); });
  refused({"top_left"}, [](call& c) { c.options.align = heed::top_left; });
  refused({"keep_first", "13", "12"}, [](call& c) { c.cache.keep_first = 13; });
  const std::vector<std::int32_t> lengths{3, -1};
  refused({"length", "-1", "0"}, [&](call& c) { c.cache.lengths = lengths; });
}
