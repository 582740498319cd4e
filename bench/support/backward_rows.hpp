// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of backward of a recurrent kernel, float, one head unless they say how many, E = D. FLOPs are nominal, 2.5 times
// forward's. Rows:
//   backward/D<D>/N<N>            x_forward: time over forward's, both in every iteration; beside Eigen and plain loops
//   backward/threads/H<H>/D<D>    two threads at N = 65536, in times of one
//   backward/accuracy/D<D>        N = 2048: RMS errors against double of dq, dk, dv, over those of plain loops
//
// Include it before anything else that includes Eigen or intrinsics.

#include "recurrent_backward.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "report.hpp"
#include "rows.hpp"
#include "two_threads.hpp"

namespace heed_bench {

// Kernel: normalised; forward(x, context), backward(x, context); plan(x) of backward; reference(x), all in double
template <class Kernel> struct backward_rows {
  using tensors = backward_tensors<float>;
  using State = benchmark::State;

  static void add_all() {
    for (const index_t d : {64, 128})
      for (const index_t n : {1024, 4096, 16384, 65536}) add_call(d, n);
    for (const index_t heads : {1, 4})
      for (const index_t d : {64, 128}) add_threads(heads, d);
    for (const index_t d : {64, 128}) add_accuracy(d);
  }

 private:
  static backward_shape shape(index_t n, index_t d, index_t heads = 1) {
    backward_shape s;
    s.n = n, s.d = s.e = d, s.heads = heads;
    return s;
  }

  static void add_call(index_t d, index_t n) {
    const std::string name = "backward" + number("/D", d) + number("/N", n);
    const backward_shape s = shape(n, d);
    add(name, [s](State& state, const std::string& row) {
      show_progress(row);
      const tensors x(s);
      const heed::plan plan = Kernel::plan(x);
      std::vector<std::byte> bytes(plan.workspace_bytes);
      Kernel::forward(x, {}), Kernel::backward(x, {.workspace = bytes});
      std::vector<double> ratios;
      for (auto _ : state) {
        const double forward = seconds_of([&] { Kernel::forward(x, {}); });
        const double backward = seconds_of([&] { Kernel::backward(x, {.workspace = bytes}); });
        state.SetIterationTime(backward);
        ratios.push_back(backward / forward);
      }
      set_rates<float>(state, s);
      state.counters["x_forward"] = median(ratios);
      state.SetLabel(std::string(plan.path) + " " + plan.isa + " chunk " + std::to_string(plan.chunk));
    })->UseManualTime();
    if (n <= 16384)
      add(name + "/eigen", [s](State& state, const std::string& row) {
        tensors x(s);
        Kernel::forward(x, {});
        eigen_backward<float> eigen(s, Kernel::normalised);
        time_row<float>(state, row, s, [&] { eigen(x); });
      });
    if (n <= 1024)
      add(name + "/naive", [s](State& state, const std::string& row) {
        tensors x(s);
        Kernel::forward(x, {});
        naive_backward<float> naive(Kernel::normalised);
        time_row<float>(state, row, s, [&] { naive(x); });
      });
  }

  static void add_threads(index_t heads, index_t d) {
    add("backward/threads" + number("/H", heads) + number("/D", d),
        [heads, d](State& state, const std::string& row) {
          show_progress(row);
          static two_threads pool;
          const backward_shape s = shape(65536, d, heads);
          const tensors x(s);
          Kernel::forward(x, {});
          std::vector<double> ours, peaks;
          for (auto _ : state) {
            const double one = seconds_of([&] { Kernel::backward(x, {}); }, now);
            const double two = seconds_of([&] { Kernel::backward(x, {.executor = pool}); }, now);
            const auto peak = [](index_t) { run_multiply_adds<float>(1'000'000); };
            const double peak_one = seconds_of([&] { peak(0); }, now);
            const double peak_two = seconds_of([&] { pool.parallel_for(2, peak); }, now);
            state.SetIterationTime(two);
            ours.push_back(one / two);
            peaks.push_back(2 * peak_one / peak_two);
          }
          set_rates<float>(state, s);
          state.counters["x_one_thread"] = median(ours);
          state.counters["x_one_peak"] = median(peaks);
        })
        ->UseManualTime()
        ->MinTime(0.2);
  }

  static void add_accuracy(index_t d) {
    add("backward/accuracy" + number("/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      tensors x(shape(2048, d));
      const backward_tensors<double> exact(x.at);
      std::copy(x.q.begin(), x.q.end(), exact.q.begin()), std::copy(x.k.begin(), x.k.end(), exact.k.begin());
      std::copy(x.v.begin(), x.v.end(), exact.v.begin()), std::copy(x.dout.begin(), x.dout.end(), exact.dout.begin());
      Kernel::forward(x, {});
      Kernel::reference(exact);
      naive_backward<float> naive(Kernel::normalised);
      naive(x);
      const double q = rms(x.dq, exact.dq), k = rms(x.dk, exact.dk), v = rms(x.dv, exact.dv);
      for (auto _ : state) Kernel::backward(x, {});
      state.counters["dq"] = rms(x.dq, exact.dq) / q;
      state.counters["dk"] = rms(x.dk, exact.dk) / k;
      state.counters["dv"] = rms(x.dv, exact.dv) / v;
    });
  }
  static double rms(const pages<float>& x, const pages<double>& exact) {
    double sum = 0;
    for (std::ptrdiff_t i = 0; i < x.end() - x.begin(); ++i) {
      const double error = static_cast<double>(x.data()[i]) - exact.data()[i];
      sum += error * error;
    }
    return std::sqrt(sum / static_cast<double>(x.end() - x.begin()));
  }
};

}  // namespace heed_bench
