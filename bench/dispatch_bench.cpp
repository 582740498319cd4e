// SPDX-License-Identifier: BSD-3-Clause
//
// Times the same calls of softmax attention through heed::dispatch and as the headers compile for this machine, in
// turns. Rows: <type>/N<N>/M<M>, 1 head, D = 64; all are dense.
// The time of a row is that of several calls through heed::dispatch.
//   x_headers   time through heed::dispatch over that of the headers
//   more_ns     the difference, nanoseconds a call: the median of the repetitions counts
// The label is the level that the library runs on; HEED_LEVEL caps it.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "dispatch/calls.hpp"
#include "heed/core/factories.hpp"

namespace {

using namespace heed_bench;
using clock = std::chrono::steady_clock;

template <class S> void compare(benchmark::State& state, heed::index_t n, heed::index_t m, heed::index_t calls) {
  constexpr heed::index_t d = 64;
  const auto count = [](heed::index_t rows) { return static_cast<std::size_t>(rows * d); };
  std::vector<S> q(count(n)), k(count(m)), v(count(m)), o(count(n));
  float number = 0.1F;
  for (auto* const x : {&q, &k, &v})
    for (S& each : *x) each = S(number = 1.7F - number * number);  // between -1.7 and 1.7
  std::vector<std::byte> workspace(std::size_t{1} << 22);
  const call<S> x{heed::matrix(q.data(), n, d), heed::matrix(k.data(), m, d), heed::matrix(v.data(), m, d),
                  heed::matrix(o.data(), n, d), workspace};
  const auto seconds = [&](void (*run)(const call<S>&)) {
    const auto begin = clock::now();
    for (heed::index_t i = 0; i < calls; ++i) run(x);
    return std::chrono::duration<double>(clock::now() - begin).count() / static_cast<double>(calls);
  };
  double through = 0, headers = 0, turns = 0;
  for (auto _ : state) {
    const double first = seconds(through_dispatch), second = seconds(through_headers);
    through += first, headers += second, ++turns;
    state.SetIterationTime(first * static_cast<double>(calls));
  }
  state.counters["x_headers"] = through / headers;
  state.counters["more_ns"] = (through - headers) / turns * 1e9;
  state.SetLabel(level());
}

template <class S> void add(const char* type) {
  struct shape {
    heed::index_t n, m, calls;
  };
  for (const auto& [n, m, calls] : {shape{1, 1, 2000}, {1, 64, 1000}, {64, 64, 50}, {1024, 1024, 1}}) {
    const heed::index_t rows = n, keys = m, each = calls;
    const std::string name = std::string(type) + "/N" + std::to_string(n) + "/M" + std::to_string(m);
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
      compare<S>(state, rows, keys, each);
    })->UseManualTime();
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  add<float>("f32");
  add<heed::bf16_t>("bf16");
  benchmark::RunSpecifiedBenchmarks();
}
