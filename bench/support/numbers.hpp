// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows numbers/<name> time a call on numbers that are slow on some machines, over the same call on mild numbers
// (standard normal, scores of variance 1), both in every iteration. N = M = 768, D = E = 64. `ratio` is 1 where time
// does not depend on numbers. nan and inf rows compute their tiles twice and find out which rows see what: up to 2.3. T
// and T_mild are the iterations of a tile, where the kernel iterates.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "rows.hpp"
#include "shapes.hpp"

namespace heed_bench {

inline constexpr index_t numbers_n = 768;

// Times hard() over mild(). Both return their iterations, or 0.
template <class Hard, class Mild>
void time_ratio(benchmark::State& state, const std::string& row, Hard hard, Mild mild) {
  show_progress(row);
  double iterations = hard(), mild_iterations = mild();
  std::vector<double> ratios;
  for (auto _ : state) {
    const double a = seconds_of([&] { iterations = hard(); });
    const double b = seconds_of([&] { mild_iterations = mild(); });
    state.SetIterationTime(a);
    ratios.push_back(a / b);
  }
  state.counters["ratio"] = median(ratios);
  if (iterations > 0) state.counters["T"] = iterations, state.counters["T_mild"] = mild_iterations;
}

// Adds one row. run(tensors, options) makes the call, hard(tensors, options) sets its numbers, mild(options) sets the
// options of the call beside it.
template <class Tensors, class Options, class Run, class Hard, class Mild>
void add_numbers(const std::string& name, const decltype(Tensors::at)& s, Options, Run run, Hard hard, Mild mild) {
  add("numbers/" + name, [=](benchmark::State& state, const std::string& row) {
    Tensors x(s), y(s);
    Options how, plain;
    hard(x, how), mild(plain);
    time_ratio(
        state, row, [&] { return run(x, how); }, [&] { return run(y, plain); });
  })->UseManualTime();
}

// Makes every element subnormal.
template <class Range> void make_subnormal(Range& x) {
  for (auto& value : x) value *= 1e-39f;
}

// Adds the rows of kernels with softmax weights. Options has the members of softmax's options.
template <class Options, class Run> void add_pair_numbers(const std::string& prefix, const shape& s, Run run) {
  using tensors_of = tensors<float>;
  const auto row = [&](const std::string& name, auto hard, auto mild) {
    add_numbers<tensors_of>(prefix + name, s, Options(), run, hard, mild);
  };
  const auto same = [](Options&) {};
  for (const int scale : {2, 3, 4, 8})
    row(
        "scale" + std::to_string(scale), [=](tensors_of&, Options& how) { how.scale = scale; }, same);
  for (const double slope : {0.25, 0.5, 1.0})
    row(
        "alibi" + std::to_string(slope).substr(0, 4), [=](tensors_of&, Options& how) { how.alibi_slopes = slope; },
        [](Options& how) { how.alibi_slopes = 1e-3; });
  row(
      "subnormal_q", [](tensors_of& x, Options&) { make_subnormal(x.q); }, same);
  row(
      "subnormal_k", [](tensors_of& x, Options&) { make_subnormal(x.k); }, same);
  row(
      "subnormal_v", [](tensors_of& x, Options&) { make_subnormal(x.v); }, same);
  row(
      "nan_v", [](tensors_of& x, Options&) { x.v.back() = std::numeric_limits<float>::quiet_NaN(); }, same);
  row(
      "all_nan_v", [](tensors_of& x, Options&) { x.v.assign(x.v.size(), std::numeric_limits<float>::quiet_NaN()); },
      same);
  row(
      "inf_k", [](tensors_of& x, Options&) { x.k.back() = std::numeric_limits<float>::infinity(); }, same);
}

}  // namespace heed_bench
