// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Registers, times and rates rows.

#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "report.hpp"
#include "shapes.hpp"

namespace heed_bench {

inline std::string number(const char* letter, index_t value) { return letter + std::to_string(value); }

// Registers a row; row(state, name) runs it.
template <class Row> auto* add(const std::string& name, Row row) {
  return benchmark::RegisterBenchmark(name.c_str(), [name, row](benchmark::State& state) { row(state, name); });
}

// Sets the rates of a row whose iteration is one call of shape s: n tokens, flops() and bytes<T>().
template <class T, class Shape> void set_rates(benchmark::State& state, const Shape& s) {
  state.counters["GFLOP/s"] = benchmark::Counter(s.flops() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] =
      benchmark::Counter(s.template bytes<T>() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(s.n), benchmark::Counter::kIsIterationInvariantRate);
}

// Times one row by repeating `call`. done: the FLOPs of a call for the comparison with the peak, where they can be
// fewer than those of the shape.
template <class T, class Shape, class Call>
void time_row(benchmark::State& state, const std::string& name, const Shape& s, Call call, double done = 0) {
  show_progress(name);
  call();
  double start = 0;
  for (auto _ : state) {
    if (start == 0) start = now();
    call();
    benchmark::ClobberMemory();
  }
  const double flops = done > 0 ? done : s.flops();
  check_against_peak<T>(state, flops * static_cast<double>(state.iterations()) * 1e-9 / (now() - start));
  set_rates<T>(state, s);
}

// Rows that compare two things time both in every iteration, one after the other.

inline double cpu_now() {  // seconds of this thread, without what else runs on its core
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

template <class Call> double seconds_of(Call call, double (*clock)() = cpu_now) {
  const double start = clock();
  call();
  benchmark::ClobberMemory();
  return clock() - start;
}

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace heed_bench
