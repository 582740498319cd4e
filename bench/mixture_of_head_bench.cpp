// SPDX-License-Identifier: BSD-3-Clause
//
// Times mixture_of_head::forward beside softmax::forward over all heads, in the same iterations. Rows:
//   <mask>/<routing>/D<D>/N<N>/f<percent>   8 heads; random: each token uses each head with probability f;
//                                           clustered: in runs of 128 tokens
//   group/<mask>/N<N>/f<percent>            8 heads on one key/value head, D = 64, random: heads share tiles
//   softmax/<mask>/D<D>/N<N>                all heads, as a share of the peak
//   numbers/                                sharp logits, subnormal numbers, NaN; half of the rows active
//   router/<kind>/H<H>                      4096 tokens, half of the heads: time of a routing
//   layout/...                              each head with probability 0.5, causal, see support/layout.hpp
// Counters: ideal is the share of (query, key) pairs whose gate is not 0, x_softmax the time over softmax's, x_ideal
// x_softmax over ideal. x_apart (group) is the time over that of the same call with K and V repeated for each head by
// stride 0, so that no two heads share a tile. GFLOP/s and % of peak count active pairs alone.
// plot.py draws <mask> rows. For numbers to quote, use --benchmark_min_time=0.5 --benchmark_repetitions=9.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "heed/mixture_of_head.hpp"
#include "heed/softmax.hpp"
#include "support/layout.hpp"
#include "support/numbers.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/shapes.hpp"

namespace {

using namespace heed_bench;
using benchmark::State;

constexpr index_t heads = 8, run_length = 128;

enum class routing { random, clustered };

// Makes gates (head, seq): each is 0 or a number around 1.
std::vector<float> gates_of(routing how, index_t n, int percent) {
  std::vector<float> gates;
  std::uint32_t seed = 11;
  const auto next = [&] { return seed = seed * 1664525u + 1013904223u, static_cast<int>(seed >> 16); };
  for (index_t h = 0; h < heads; ++h)
    for (index_t i = 0; i < n; ++i) {
      const auto turn = static_cast<int>((i / run_length * 7 + h * 3) % 20);
      const bool on = how == routing::random ? next() % 10000 < 100 * percent : 5 * turn < percent;
      gates.push_back(on ? 0.5f + static_cast<float>(next()) * 0x1p-16f : 0.f);
    }
  return gates;
}

// Returns the share of visible pairs whose gate is not 0.
double active_share(const shape& s, const std::vector<float>& gates) {
  double active = 0, all = 0;
  for (index_t h = 0; h < s.heads; ++h)
    for (index_t i = 0; i < s.n; ++i) {
      const double pairs = static_cast<double>(s.end(i) - s.first(i));
      all += pairs;
      active += gates[static_cast<std::size_t>(h * s.n + i)] == 0 ? 0 : pairs;
    }
  return active / all;
}

struct call {
  tensors<float> x;
  std::vector<float> gates;
  heed::softmax::options<float> options;
  std::vector<std::byte> workspace;

  call(const shape& s, std::vector<float> g) : x(s), gates(std::move(g)), options(options_of<float>(s)) {
    workspace.resize(
        std::max(plan().workspace_bytes,
                 heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options).workspace_bytes));
  }
  heed::tensor_view<const float, 3> gate_view() const {
    return {gates.data(), {1, x.at.heads, x.at.n}, {0, x.at.n, 1}};
  }
  heed::plan plan() {
    return heed::mixture_of_head::plan_forward(x.q_view(), x.k_view(), x.v_view(), gate_view(), x.o_view(), options);
  }
  void mixture() {
    heed::mixture_of_head::forward(x.q_view(), x.k_view(), x.v_view(), gate_view(), x.o_view(), options,
                                   {.workspace = workspace});
  }
  void apart() {  // the heads of one key/value head, without shared tiles
    heed::mixture_of_head::forward(x.q_view(), heed::broadcast(x.k_view(), 1, x.at.heads),
                                   heed::broadcast(x.v_view(), 1, x.at.heads), gate_view(), x.o_view(), options);
  }
  void all_heads() {
    heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options, {.workspace = workspace});
  }
};

void add_row(const std::string& name, const shape& s, routing how, int percent, bool grouped) {
  add(name, [=](State& state, const std::string& row) {
    show_progress(row);
    call c(s, gates_of(how, s.n, percent));
    const double ideal = active_share(s, c.gates);
    std::vector<double> ratios, apart;
    c.mixture(), c.all_heads();
    for (auto _ : state) {
      const double a = seconds_of([&] { c.mixture(); });
      ratios.push_back(a / seconds_of([&] { c.all_heads(); }));
      if (grouped) apart.push_back(a / seconds_of([&] { c.apart(); }));
      state.SetIterationTime(a);
    }
    const double ratio = median(ratios);
    state.counters["GFLOP/s"] =
        benchmark::Counter(ideal * s.flops() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
    state.counters["tokens/s"] =
        benchmark::Counter(static_cast<double>(s.n), benchmark::Counter::kIsIterationInvariantRate);
    state.counters["ideal"] = ideal, state.counters["x_softmax"] = ratio, state.counters["x_ideal"] = ratio / ideal;
    if (grouped) state.counters["x_apart"] = median(apart);
    state.SetLabel(c.plan().why.data());
  })->UseManualTime();
}

void add_active_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const routing how : {routing::random, routing::clustered})
      for (const index_t d : {64, 128})
        for (const index_t n : {256, 512, 1024, 2048, 4096})
          for (const int percent : {100, 90, 75, 50, 25})
            add_row(std::string(name(mask)) + (how == routing::random ? "/random" : "/clustered") + number("/D", d) +
                        number("/N", n) + number("/f", percent),
                    {.n = n, .m = n, .d = d, .e = d, .heads = heads, .kv_heads = heads, .mask = mask}, how, percent,
                    false);
}

void add_group_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t n : {64, 256, 1024, 2048})
      for (const int percent : {90, 50, 25, 5})
        add_row(std::string("group/") + name(mask) + number("/N", n) + number("/f", percent),
                {.n = n, .m = n, .heads = heads, .kv_heads = 1, .mask = mask}, routing::random, percent, true);
}

void add_softmax_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      for (const index_t n : {256, 512, 1024, 2048, 4096}) {
        const shape s{.n = n, .m = n, .d = d, .e = d, .heads = heads, .kv_heads = heads, .mask = mask};
        add(std::string("softmax/") + name(mask) + number("/D", d) + number("/N", n),
            [s](State& state, const std::string& row) {
              call c(s, std::vector<float>(static_cast<std::size_t>(heads * s.n), 1.f));
              time_row<float>(state, row, s, [&] { c.all_heads(); });
            });
      }
}

void add_router_rows() {
  for (const index_t count : {8, 32})
    for (const bool by_norm : {false, true})
      add(std::string("router/") + (by_norm ? "norm" : "trained") + number("/H", count),
          [=](State& state, const std::string& row) {
            show_progress(row);
            constexpr index_t n = 4096, d = 64;
            const tensors<float> x({.n = n, .m = 1, .d = d, .heads = count});
            std::vector<float> gates(static_cast<std::size_t>(count * n));
            const auto view = [&](auto* data, index_t h) {
              return heed::tensor_view<std::remove_pointer_t<decltype(data)>, 3>(data, {1, h, n}, {0, n, 1});
            };
            const heed::mixture_of_head::routing how{.shared = count / 4, .active = count / 4};
            for (auto _ : state) {
              if (by_norm)
                heed::mixture_of_head::route_by_norm(x.q_view(), how, view(gates.data(), count));
              else
                heed::mixture_of_head::route_trained(view(x.q.data(), count - how.shared), view(x.q.data(), how.shared),
                                                     view(x.q.data(), 2), how, view(gates.data(), count));
              benchmark::ClobberMemory();
            }
            state.counters["tokens/s"] =
                benchmark::Counter(static_cast<double>(n), benchmark::Counter::kIsIterationInvariantRate);
          });
}

void add_numbers_rows() {
  using options = heed::mixture_of_head::options<float>;
  const shape s{.n = numbers_n, .m = numbers_n, .heads = heads, .kv_heads = heads};
  const auto run = [gates = gates_of(routing::random, numbers_n, 50)](tensors<float>& x, const options& how) {
    heed::mixture_of_head::forward(
        x.q_view(), x.k_view(), x.v_view(),
        heed::tensor_view<const float, 3>(gates.data(), {1, heads, numbers_n}, {0, numbers_n, 1}), x.o_view(), how);
    return 0.0;
  };
  add_pair_numbers<options>("", s, run);
}

void add_layouts() {
  add_layout_rows(
      "",
      [](const laid_tensors& x) {
        heed::mixture_of_head::forward(x.q, x.k, x.v, x.gates(), x.o, {.mask = heed::causal()});
      },
      [](const laid_shape& s) {
        return 0.5 * shape{.n = s.n, .m = s.n, .d = s.d, .e = s.d, .mask = masking::causal}.flops();
      });
}

}  // namespace

int main(int argc, char** argv) {
  add_active_rows();
  add_group_rows();
  add_softmax_rows();
  add_router_rows();
  add_numbers_rows();
  add_layouts();
  return run_all(argc, argv);
}
