// SPDX-License-Identifier: BSD-3-Clause
//
// Times softmax::forward on bf16 and f16 (q, k, v and o) beside the same call on floats. Rows, <type> is bf16 or f16:
//   <type>/<mask>/D<D>/N<N>          one head, M = N, E = D      <type>/gqa/<mask>/D<D>/N<N>  8 heads on 1 k/v head
//   <type>/bshd/<mask>/D<D>          token-major, N = 1024: x_bhsd is the time over that of bhsd
//   <type>/long/D<D>/N<N>                    few queries on 65536 keys, which come from memory
//   <type>/sharp/D<D>                scores 32 times as large: x_mild is the time over that of the default scale
//   <type>/threads/<mask>/D<D>       two threads at N = 2048: x_one_thread is the speed-up
//   accuracy/<type>/D<D>             errors against double, see add_accuracy_rows
// x_float: how many times as fast as float. pct_unit: share of the peak of the unit that heed chose for bf16 (AMX or
// bf16 dot products), measured in the same process; left out where there is none. "% peak" is of the float FMA peak.
// Set HEED_UNITS=no-amx,no-dot to time bf16 without units, which is storage alone.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "heed/reference/softmax.hpp"
#include "heed/softmax.hpp"
#include "support/half.hpp"
#include "support/two_threads.hpp"
#include "support/unit_meters.hpp"

namespace {

using namespace heed_bench;
using benchmark::Counter;
using benchmark::State;
using options = heed::softmax::options<float>;

template <class S> void run(tensors<S>& x, const options& how, const heed::context& context = {}) {
  heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), how, context);
}

// Sets the rates of a row, and its share of the unit's peak where bf16 has a unit.
template <class S> void set_half_rates(State& state, tensors<S>& x, const options& how) {
  set_rates<S>(state, x.at);
  const double peak = std::is_same_v<S, heed::bf16_t> ? current_unit_peak() : 0;
  if (peak > 0)
    state.counters["pct_unit"] = Counter(100 * x.at.flops() * 1e-9 / peak, Counter::kIsIterationInvariantRate);
  const heed::plan plan = heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), how);
  state.SetLabel(plan.path);
}

template <class S> void add_prefill(const std::string& name, const shape& s) {
  add(name, [s](State& state, const std::string& row) {
    show_progress(row);
    tensors<S> x(s);
    tensors<float> y(s);
    const options how = options_of<float>(s);
    const double faster = time_beside(state, s.flops(), [&] { run(x, how); }, [&] { run(y, how); });
    set_half_rates(state, x, how);
    state.counters["x_float"] = faster;
  })->UseManualTime();
}

// Rows of more than 70 GFLOP are left out: on floats they take more than half a second.
template <class S> void add_prefill_rows() {
  const std::string type = storage_name<S>;
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {32, 64, 128, 256})
      for (const index_t n : {64, 256, 1024, 2048, 4096, 16384}) {
        const shape s{.n = n, .m = n, .d = d, .e = d, .mask = mask};
        const std::string at = std::string(name(mask)) + number("/D", d) + number("/N", n);
        if (s.flops() <= 70e9) add_prefill<S>(type + "/" + at, s);
        shape group = s;
        group.heads = 8;
        if ((d == 64 || d == 128) && n <= 1024) add_prefill<S>(type + "/gqa/" + at, group);
      }
}

template <class S> void add_layout_and_sharp_rows() {
  const std::string type = storage_name<S>;
  for (const index_t d : {64, 128}) {
    for (const masking mask : {masking::dense, masking::causal})
      add(type + "/bshd/" + name(mask) + number("/D", d), [=](State& state, const std::string& row) {
        show_progress(row);
        const shape s{.n = 1024, .m = 1024, .d = d, .e = d, .heads = 8, .kv_heads = 8, .mask = mask};
        tensors<S> x(s), plain(s);
        const options how = options_of<float>(s);
        const auto view = [&](auto& data) { return heed::bshd(data.data(), 1, s.n, s.heads, d); };
        const double faster = time_beside(
            state, s.flops(),
            [&] {
              heed::softmax::forward(view(std::as_const(x.q)), view(std::as_const(x.k)), view(std::as_const(x.v)),
                                     view(x.o), how);
            },
            [&] { run(plain, how); });
        set_half_rates(state, x, how);
        state.counters["x_bhsd"] = 1 / faster;
      })->UseManualTime();
    add(type + "/sharp" + number("/D", d), [=](State& state, const std::string& row) {
      show_progress(row);
      const shape s{.n = 1024, .m = 1024, .d = d, .e = d};
      tensors<S> x(s), mild(s);
      const options how{.scale = 32 / std::sqrt(static_cast<double>(d))};
      const double faster = time_beside(state, s.flops(), [&] { run(x, how); }, [&] { run(mild, {}); });
      set_half_rates(state, x, how);
      state.counters["x_mild"] = 1 / faster;
    })->UseManualTime();
  }
}

template <class S> void add_long_rows() {
  for (const index_t d : {64, 128})
    for (const index_t n : {16, 64, 128, 256, 512})
      add_prefill<S>(std::string(storage_name<S>) + number("/long/D", d) + number("/N", n),
                     {.n = n, .m = 65536, .d = d, .e = d});
}

template <class S> void add_thread_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      add(std::string(storage_name<S>) + "/threads/" + name(mask) + number("/D", d),
          [mask, d](State& state, const std::string& row) {
            show_progress(row);
            static two_threads pool;
            const shape s{.n = 2048, .m = 2048, .d = d, .e = d, .mask = mask};
            tensors<S> x(s);
            const options how = options_of<float>(s);
            std::vector<double> ratios;
            for (auto _ : state) {
              const double one = seconds_of([&] { run(x, how); }, now);
              run(x, how, {.executor = pool});  // wakes the threads, which may take longer than the call
              const double two = seconds_of([&] { run(x, how, {.executor = pool}); }, now);
              state.SetIterationTime(two);
              ratios.push_back(one / two);
            }
            state.counters["tokens/s"] = Counter(static_cast<double>(s.n), Counter::kIsIterationInvariantRate);
            state.counters["x_one_thread"] = median(ratios);
          })
          ->UseManualTime()
          ->MinTime(0.2);
}

struct errors {
  double rms = 0, most = 0;
};
template <class T> errors errors_of(const std::vector<T>& o, const std::vector<double>& exact) {
  errors e;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double error = std::abs(static_cast<double>(o[i]) - exact[i]);
    e.rms += error * error, e.most = std::max(e.most, error);
  }
  e.rms = std::sqrt(e.rms / static_cast<double>(exact.size()));
  return e;
}

// Computes one head in plain float loops whose weights are rounded to S before the product, and sums what it rounded.
template <class S> std::vector<float> rounded_weights(const tensors<S>& x) {
  const auto [n, m, d, e] = std::array{x.at.n, x.at.m, x.at.d, x.at.e};
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  std::vector<float> o(x.o.size()), p(static_cast<std::size_t>(m));
  for (index_t i = 0; i < n; ++i) {
    const S* const q = x.q.data() + i * d;
    float most = -std::numeric_limits<float>::infinity(), sum = 0;
    for (index_t j = 0; j < m; ++j) {
      const S* const k = x.k.data() + j * d;
      float s = 0;
      for (index_t c = 0; c < d; ++c) s += static_cast<float>(q[c]) * static_cast<float>(k[c]);
      p[static_cast<std::size_t>(j)] = s * scale, most = std::max(most, s * scale);
    }
    float* const row = o.data() + i * e;
    for (index_t j = 0; j < m; ++j) {
      const float w = static_cast<float>(S(std::exp(p[static_cast<std::size_t>(j)] - most)));
      sum += w;
      for (index_t c = 0; c < e; ++c) row[c] += w * static_cast<float>(x.v[static_cast<std::size_t>(j * e + c)]);
    }
    for (index_t c = 0; c < e; ++c) row[c] /= sum;
  }
  return o;
}

// Adds rows of errors against double on standard normal q, k, v. rms, max: of the sums alone, inputs as stored and o in
// float; rms_ratio, max_ratio: over those of plain float loops that round the weights to the type. rel_all: RMS error
// where q, k, v and o are rounded, against double on the floats that they come from, over the RMS of o.
template <class S> void add_accuracy_rows() {
  for (const index_t d : {64, 128})
    add(std::string("accuracy/") + storage_name<S> + number("/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      const shape s{.n = 512, .m = 1024, .d = d, .e = d};
      tensors<S> x(s);
      tensors<float> y(s);
      std::vector<double> exact(x.o.size()), unrounded(x.o.size());
      heed::reference::softmax::forward(x.q_view(), x.k_view(), x.v_view(), heed::bhsd(exact.data(), 1, 1, s.n, s.e));
      heed::reference::softmax::forward(y.q_view(), y.k_view(), y.v_view(),
                                        heed::bhsd(unrounded.data(), 1, 1, s.n, s.e));
      for (auto _ : state) run(x, {});
      heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), y.o_view());
      const errors ours = errors_of(y.o, exact), plain = errors_of(rounded_weights(x), exact);
      state.counters["rms"] = ours.rms, state.counters["max"] = ours.most;
      state.counters["rms_ratio"] = ours.rms / plain.rms, state.counters["max_ratio"] = ours.most / plain.most;
      const std::vector<double> zero(exact.size());
      state.counters["rel_all"] = errors_of(x.o, unrounded).rms / errors_of(zero, unrounded).rms;
    });
}

template <class S> void add_rows() {
  add_prefill_rows<S>();
  add_layout_and_sharp_rows<S>();
  add_long_rows<S>();
  add_thread_rows<S>();
  add_accuracy_rows<S>();
}

}  // namespace

int main(int argc, char** argv) {
  add_rows<heed::bf16_t>();
  add_rows<heed::f16_t>();
  const int failed = run_all(argc, argv);
  const heed::tile::matrix_unit* const unit = heed::tile::bf16_unit();
  std::printf("bf16: %s (%s), peak %.1f GFLOP/s\n", unit == nullptr ? "widened to float" : unit->name,
              heed::tile::why_unit(), best_unit_peak());
  return failed;
}
