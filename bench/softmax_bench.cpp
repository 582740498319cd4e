// SPDX-License-Identifier: BSD-3-Clause
//
// Times softmax::forward beside two Eigen matrix products, plain loops, and the limits of the machine. Rows:
//   prefill/<mask>/D<D>/N<N>    one head, M = N, E = D         gqa/<mask>/D<D>/N<N>    8 query heads on 2 k/v heads
//   double/<mask>/D<D>/N<N>     the same in double             small/D<D>/N<N>/M<M>    few queries; /prepared
//   group8/D<D>/M<M>            one query, 8 heads a k/v head  window/D<D>             window of 256 at N = 16384
//   masks_inside/<mask>/N<N>    a mask that hides nothing      tile_ceiling/D<D>       one tile that stays in cache
//   threads/<mask>/D<D>         two threads, two peak loops    accuracy/D<D>           error against double
//   options/, packed/, board/   the cost of options, see softmax_options.hpp
//   numbers/                    sharp logits, subnormal numbers, NaN; numbers/few/: 4 queries
//   layout/<mask>/...           see support/layout.hpp         long_keys/           few queries, keys beyond the caches
// --benchmark_filter=REGEX chooses rows, --benchmark_out=FILE writes JSON for plot.py. The defaults take two to
// three minutes. For numbers to quote, use --benchmark_min_time=0.5 --benchmark_repetitions=9.
#include "support/eigen_baseline.hpp"

#include "softmax_options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "heed/reference/softmax.hpp"
#include "heed/softmax.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/online_softmax.hpp"
#include "support/layout.hpp"
#include "support/naive.hpp"
#include "support/numbers.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/shapes.hpp"
#include "support/two_threads.hpp"

namespace {

using namespace heed_bench;
using benchmark::Counter;
using benchmark::State;

template <class T> std::string plan_label(tensors<T>& x) {
  const heed::plan plan =
      heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options_of<T>(x.at));
  char text[96];
  std::snprintf(text, sizeof text, "%s %s %dx%d scratch %zu", plan.path, plan.isa, static_cast<int>(plan.query_tile),
                static_cast<int>(plan.key_tile), plan.workspace_bytes);
  return text;
}

template <class T> heed::context with_workspace(tensors<T>& x, std::vector<std::byte>& bytes) {
  bytes.resize(
      heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options_of<T>(x.at)).workspace_bytes);
  return {.workspace = bytes};
}

template <class T>
void run_heed(tensors<T>& x, const heed::softmax::options<T>& options, const heed::context& context) {
  heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options, context);
}

template <class T> void run_naive(tensors<T>& x, std::vector<T>& p) {
  const shape& s = x.at;
  for (index_t h = 0; h < s.heads; ++h) {
    const index_t g = h / (s.heads / s.kv_heads);
    naive_attention(
        x.q.data() + h * s.n * s.d, x.k.data() + g * s.m * s.d, x.v.data() + g * s.m * s.e, x.o.data() + h * s.n * s.e,
        s.n, s.d, s.e, T(1) / std::sqrt(static_cast<T>(s.d)), p, [&](index_t i) { return s.first(i); },
        [&](index_t i) { return s.end(i); });
  }
}

// Adds heed's row, and beside it Eigen and the plain loops where they do not take too long.
template <class T = float> void add_with_neighbours(const std::string& name, const shape& s) {
  add(name, [s](State& state, const std::string& row) {
    tensors<T> x(s);
    std::vector<std::byte> bytes;
    const heed::softmax::options<T> options = options_of<T>(s);
    const heed::context context = with_workspace(x, bytes);
    time_row<T>(state, row, s, [&] { run_heed(x, options, context); });
    state.SetLabel(plan_label(x));
  });
  const double all_pairs = static_cast<double>(s.heads * s.n * s.m);
  if (all_pairs <= 4096.0 * 4096.0)
    add(name + "/eigen", [s](State& state, const std::string& row) {
      tensors<T> x(s);
      eigen_attention<T> eigen(s);
      time_row<T>(state, row, s, [&] { eigen(x); });
    });
  if (s.flops() <= 0.3e9)
    add(name + "/naive", [s](State& state, const std::string& row) {
      tensors<T> x(s);
      std::vector<T> p(static_cast<std::size_t>(s.m));
      time_row<T>(state, row, s, [&] { run_naive(x, p); });
    });
}

// Adds the row of a call that is checked once and run many times, beside forward's.
void add_prepared(const std::string& name, const shape& s) {
  add(name + "/prepared", [s](State& state, const std::string& row) {
    tensors<float> x(s);
    auto call = heed::softmax::prepare(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options_of<float>(s));
    time_row<float>(state, row, s, [&] { call(); });
  });
}

void add_forward_rows() {
  for (const masking mask : {masking::dense, masking::causal, masking::window})
    for (const index_t d : {32, 64, 80, 128})
      for (const index_t n : {16, 64, 256, 1024, 4096, 16384})
        add_with_neighbours(std::string("prefill/") + name(mask) + number("/D", d) + number("/N", n),
                            {.n = n, .m = n, .d = d, .e = d, .mask = mask});
  for (const index_t n : {256, 1024, 4096})
    add_with_neighbours<double>(number("double/dense/D64/N", n), {.n = n, .m = n});
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      for (const index_t n : {16, 64, 256, 1024})
        add_with_neighbours(std::string("gqa/") + name(mask) + number("/D", d) + number("/N", n),
                            {.n = n, .m = n, .d = d, .e = d, .heads = 8, .kv_heads = 2, .mask = mask});
  for (const index_t d : {32, 64, 128})
    for (const index_t n : {1, 2, 4, 8, 16, 32, 64})
      for (const index_t m : {n, index_t{1024}}) {
        const std::string row = number("small/D", d) + number("/N", n) + number("/M", m);
        add_with_neighbours(row, {.n = n, .m = m, .d = d, .e = d});
        if (n <= 4) add_prepared(row, {.n = n, .m = m, .d = d, .e = d});
      }
}

// Rows that compare two things time both in every iteration, one after the other, so that a change of the machine's
// speed affects both. The ratio is the median over the iterations.

// Adds rows of a window: their time over that of N * (256 + query tile) pairs at the rate of dense attention.
void add_window_rows() {
  for (const index_t d : {64, 128})
    add(number("window/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      const shape windowed{.n = 16384, .m = 16384, .d = d, .e = d, .mask = masking::window};
      const shape dense{.n = 2048, .m = 2048, .d = d, .e = d};
      tensors<float> x(windowed), y(dense);
      const auto options = options_of<float>(windowed);
      const auto tile = heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options).query_tile;
      const double budget = static_cast<double>(windowed.n * (window_keys + tile)) / dense.pairs();
      std::vector<double> ratios;
      for (auto _ : state) {
        const double a = seconds_of([&] { run_heed(x, options, {}); });
        const double b = seconds_of([&] { run_heed(y, {}, {}); });
        state.SetIterationTime(a);
        ratios.push_back(a / (b * budget));
      }
      set_rates<float>(state, windowed);
      state.counters["x_budget"] = median(ratios);
      state.SetLabel(plan_label(x));
    })->UseManualTime();
}

// Adds rows of a mask that hides nothing, over no mask.
void add_mask_rows() {
  for (const bool causal : {false, true})
    for (const index_t n : {1024, 4096})
      add(std::string("masks_inside/") + (causal ? "causal" : "key_lengths") + number("/N", n),
          [causal, n](State& state, const std::string& row) {
            show_progress(row);
            tensors<float> x({.n = n, .m = n});
            const std::vector<std::int32_t> keys{static_cast<std::int32_t>(n)};
            heed::softmax::options<float> masked;
            if (causal)
              masked.mask = heed::causal(), masked.align = heed::first_place(keys);  // every query comes after all keys
            else
              masked.mask = heed::key_lengths(keys);
            std::vector<double> ratios;
            for (auto _ : state) {
              const double a = seconds_of([&] { run_heed(x, masked, {}); });
              const double b = seconds_of([&] { run_heed(x, {}, {}); });
              state.SetIterationTime(a);
              ratios.push_back(a / b);
            }
            set_rates<float>(state, x.at);
            state.counters["x_unmasked"] = median(ratios);
          })
          ->UseManualTime();
}

// Adds rows of one query per head with eight heads on one key/value head. They are memory bound where K and V are
// longer than the caches. The bandwidth beside them is measured on the row's own K, page by page.
void add_group_rows() {
  for (const index_t d : {64, 128})
    for (const index_t m : {1024, 16384, 262144})
      add(number("group8/D", d) + number("/M", m), [d, m](State& state, const std::string& row) {
        show_progress(row);
        const shape s{.n = 1, .m = m, .d = d, .e = d, .heads = 8};
        tensors<float> x(s);
        std::vector<std::byte> bytes;
        const heed::context context = with_workspace(x, bytes);
        const auto* keys = reinterpret_cast<const std::byte*>(x.k.data());
        const double key_bytes = static_cast<double>(x.k.size() * sizeof(float));
        std::vector<double> shares;
        for (auto _ : state) {
          const double a = seconds_of([&] { run_heed(x, {}, context); });
          const double b = seconds_of([&] { read_lines<4>(keys, x.k.size() * sizeof(float) / 512); });
          state.SetIterationTime(a);
          shares.push_back(s.bytes<float>() / a / (key_bytes / b));
        }
        set_rates<float>(state, s);
        state.counters["x_read"] = median(shares);
        state.SetLabel(plan_label(x));
      })->UseManualTime();
}

void add_layouts() {
  for (const masking mask : {masking::dense, masking::causal}) {
    const auto options = options_of<float>({.mask = mask});
    add_layout_rows(
        std::string(name(mask)) + "/",
        [options](const laid_tensors& x) { heed::softmax::forward(x.q, x.k, x.v, x.o, options); },
        [mask](const laid_shape& s) { return shape{.n = s.n, .m = s.n, .d = s.d, .e = s.d, .mask = mask}.flops(); });
  }
}

// Adds rows of few queries whose keys and values do not fit into the caches. x_dense is the rate over that of N = M =
// 1024, x_cached over that of the same queries on 256 keys, x_read the bytes over the read bandwidth of the row's own
// K.
void add_long_key_rows() {
  constexpr index_t cases[][4] = {{128, 1, 4096}, {128, 1, 16384}, {4, 4, 4096}, {4, 4, 32768}};  // N, heads, M
  for (const index_t d : {64, 128})
    for (const auto& [n, heads, m, unused] : cases)
      add(number("long_keys/D", d) + number("/N", n) + number("/H", heads) + number("/M", m),
          [=, n_ = n, heads_ = heads, m_ = m](State& state, const std::string& row) {
            show_progress(row);
            const shape s{.n = n_, .m = m_, .d = d, .e = d, .heads = heads_};
            tensors<float> x(s), near({.n = n_, .m = 256, .d = d, .e = d, .heads = heads_}),
                dense({.n = 1024, .m = 1024, .d = d, .e = d});
            const auto rate = [](tensors<float>& y, int times) {
              const double seconds = seconds_of([&] {
                for (int i = 0; i < times; ++i) run_heed(y, {}, {});
              });
              return y.at.flops() * times / seconds;
            };
            const auto* keys = reinterpret_cast<const std::byte*>(x.k.data());
            std::vector<double> of_dense, of_cached, shares;
            run_heed(x, {}, {});
            for (auto _ : state) {
              const double a = seconds_of([&] { run_heed(x, {}, {}); }), ours = s.flops() / a;
              const double b = seconds_of([&] { read_lines<4>(keys, x.k.size() * sizeof(float) / 512); });
              of_cached.push_back(ours / rate(near, 16)), of_dense.push_back(ours / rate(dense, 1));
              shares.push_back(s.bytes<float>() / a / (static_cast<double>(x.k.size() * sizeof(float)) / b));
              state.SetIterationTime(a);
            }
            set_rates<float>(state, s);
            state.counters["x_dense"] = median(of_dense), state.counters["x_cached"] = median(of_cached);
            state.counters["x_read"] = median(shares);
            state.SetLabel(plan_label(x));
          })
          ->UseManualTime()
          ->Iterations(9);
}

// Adds rows of two threads over one, beside two peak loops at once over one.
void add_thread_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      add(std::string("threads/") + name(mask) + number("/D", d),
          [mask, d](State& state, const std::string& row) {
            show_progress(row);
            static two_threads pool;
            const shape s{.n = 4096, .m = 4096, .d = d, .e = d, .mask = mask};
            tensors<float> x(s);
            const auto options = options_of<float>(s);
            std::vector<double> ours, peaks;
            for (auto _ : state) {
              const double one = seconds_of([&] { run_heed(x, options, {}); }, now);
              const double two = seconds_of([&] { run_heed(x, options, {.executor = pool}); }, now);
              const auto peak = [](index_t) { run_multiply_adds<float>(1'000'000); };
              const double peak_one = seconds_of([&] { peak(0); }, now);
              const double peak_two = seconds_of([&] { pool.parallel_for(2, peak); }, now);
              state.SetIterationTime(two);
              ours.push_back(one / two);
              peaks.push_back(2 * peak_one / peak_two);
            }
            state.counters["tokens/s"] = Counter(static_cast<double>(s.n), Counter::kIsIterationInvariantRate);
            state.counters["x_one_thread"] = median(ours);
            state.counters["x_one_peak"] = median(peaks);
          })
          ->UseManualTime()
          ->MinTime(0.2);
}

// Adds rows of the errors against double, of heed and of the plain float loops, on the same inputs.
void add_accuracy_rows() {
  for (const index_t d : {64, 128})
    add(number("accuracy/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      const shape s{.n = 512, .m = 1024, .d = d, .e = d};
      tensors<float> x(s);
      std::vector<double> exact(x.o.size());
      heed::reference::softmax::forward(x.q_view(), x.k_view(), x.v_view(), heed::bhsd(exact.data(), 1, 1, s.n, s.e));
      const auto errors = [&] {  // {RMS, maximum}
        double sum = 0, most = 0;
        for (std::size_t i = 0; i < exact.size(); ++i) {
          const double error = std::abs(static_cast<double>(x.o[i]) - exact[i]);
          sum += error * error, most = std::max(most, error);
        }
        return std::pair(std::sqrt(sum / static_cast<double>(exact.size())), most);
      };
      std::vector<float> p;
      run_naive(x, p);
      const auto naive = errors();
      for (auto _ : state) run_heed(x, {}, {});
      const auto ours = errors();
      state.counters["rms"] = ours.first;
      state.counters["max"] = ours.second;
      state.counters["rms_naive"] = naive.first;
      state.counters["max_naive"] = naive.second;
      state.counters["rms_ratio"] = ours.first / naive.first;
      state.counters["max_ratio"] = ours.second / naive.second;
    });
}

// Times the multiplies and weights of one query tile and one key tile that stay in cache, without the driver around
// them: the ceiling of the tile layer on this machine.
template <int Vectors>
void tile_step(const std::vector<float>& k, const std::vector<float>& v, const std::vector<float>& q,
               std::vector<float>& scores, std::vector<float>& o, std::vector<float>& stats, index_t keys, index_t d) {
  constexpr index_t lanes = heed::tile::max_lanes<float>;
  float *m = stats.data(), *l = m + lanes, *factor = l + lanes;
  std::copy(m, m + lanes, factor);
  heed::tile::multiply(heed::tile::matrix_product<float>{.a = k.data(),
                                                         .a_row = d,
                                                         .a_col = 1,
                                                         .b = q.data(),
                                                         .b_row = lanes,
                                                         .c = scores.data(),
                                                         .c_row = lanes,
                                                         .rows = keys,
                                                         .depth = d,
                                                         .row_max = factor},
                       Vectors);
  heed::tile::lane_states<float>::update<Vectors>({scores.data(), lanes, keys, lanes}, m, l, factor);
  heed::tile::multiply(heed::tile::matrix_product<float>{.a = v.data(),
                                                         .a_row = 1,
                                                         .a_col = d,
                                                         .b = scores.data(),
                                                         .b_row = lanes,
                                                         .c = o.data(),
                                                         .c_row = lanes,
                                                         .rows = d,
                                                         .depth = keys,
                                                         .accumulate = heed::tile::accumulate::scale,
                                                         .factor = factor},
                       Vectors);
}

void add_ceiling_rows() {
  for (const index_t d : {32, 64, 80, 128})
    add(number("tile_ceiling/D", d), [d](State& state, const std::string& row) {
      constexpr index_t lanes = heed::tile::max_lanes<float>;
      tensors<float> x({.n = lanes, .m = 4096, .d = d, .e = d});  // for the plan's key tile
      const index_t keys = heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view()).key_tile;
      const shape s{.n = lanes, .m = keys, .d = d, .e = d};
      std::vector<float> q(static_cast<std::size_t>(lanes * d)), o(q.size());  // as packed: (d, lane)
      for (std::size_t i = 0; i < q.size(); ++i) q[i] = x.q[i] / std::sqrt(static_cast<float>(d));
      std::vector<float> scores(static_cast<std::size_t>(lanes * keys)), stats(static_cast<std::size_t>(3 * lanes));
      time_row<float>(state, row, s,
                      [&] { tile_step<heed::tile::max_vectors>(x.k, x.v, q, scores, o, stats, keys, d); });
    });
}

void add_numbers_rows() {
  using options = heed::softmax::options<float>;
  const auto run = [](tensors<float>& x, const options& how) { return run_heed(x, how, {}), 0.0; };
  add_pair_numbers<options>("", {.n = numbers_n, .m = numbers_n}, run);
  add_pair_numbers<options>("few/", {.n = 4, .m = 16 * numbers_n}, run);
}

}  // namespace

int main(int argc, char** argv) {
  add_forward_rows();
  add_group_rows();
  add_window_rows();
  add_mask_rows();
  add_option_costs();
  add_packed_rows();
  add_board_rows();
  add_ceiling_rows();
  add_layouts();
  add_long_key_rows();
  add_thread_rows();
  add_accuracy_rows();
  add_numbers_rows();
  return run_all(argc, argv);
}
