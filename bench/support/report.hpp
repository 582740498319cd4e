// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Runs the registered rows between two measurements of the machine. Reports them at the end, when the larger peak is
// known: one line per row (the median of its repetitions), and all repetitions as JSON with --benchmark_out=FILE.
// Compares a row NAME with the rows NAME/eigen and NAME/naive where they ran.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "meters.hpp"

namespace heed_bench {

struct run_state {
  machine before, best;  // best: the larger of everything measured so far
  int rows_above_peak = 0;
  double started = now();
};
inline run_state& current_run() {
  static run_state run;
  return run;
}

inline void show_progress(const std::string& row) {
  if (isatty(STDERR_FILENO) == 0) return;
  std::fprintf(stderr, "\r\033[K%4.0f s  %s", now() - current_run().started, row.c_str());
}

template <class T> double& best_peak() {
  machine& m = current_run().best;
  if constexpr (std::is_same_v<T, double>)
    return m.gflops_double;
  else
    return m.gflops_float;
}

// Fails a row whose rate is above 101 % of the peak: its FLOPs are miscounted, or the compiler removed its work.
template <class T> void check_against_peak(benchmark::State& state, double gflops) {
  if (!has_meters || gflops <= 1.01 * best_peak<T>()) return;
  best_peak<T>() = std::max(best_peak<T>(), multiply_add_peak<T>());  // the clock may have risen
  if (gflops <= 1.01 * best_peak<T>()) return;
  ++current_run().rows_above_peak;
  state.SkipWithError("more than 101 % of the peak");
}

class late_reporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {  // repetitions and their statistics come separately
    if (runs.empty()) return;
    auto& row = groups_[runs.front().family_index];
    row.insert(row.end(), runs.begin(), runs.end());
  }

  // Computes shares of the final peak, and times relative to the neighbour rows.
  void complete(const machine& peak) {
    std::map<std::string, double> seconds;
    for (const auto& [index, group] : groups_)
      if (const Run* run = shown(group)) seconds[run->run_name.function_name] = time(*run);
    for (auto& [index, group] : groups_)
      for (Run& run : group) {
        const std::string& row = run.run_name.function_name;
        const auto rate = run.counters.find("GFLOP/s");
        const bool f64 = row.find("double") != std::string::npos;
        if (rate != run.counters.end() && run.aggregate_name != "cv" && has_meters)
          run.counters["pct_peak"] = 100 * rate->second / (f64 ? peak.gflops_double : peak.gflops_float);
        if (&run != shown(group)) continue;
        for (const char* other : {"eigen", "naive"})
          if (const auto it = seconds.find(row + "/" + other); it != seconds.end())
            run.counters[std::string("x_") + other] = it->second / seconds[row];
      }
  }

  void print() const {
    std::printf("%-32s %11s %9s %6s %7s %10s %7s %7s  %s\n", "row (median)", "time", "GFLOP/s", "% peak", "GB/s",
                "tokens/s", "x eigen", "x naive", "plan and ratios");
    for (const auto& [index, group] : groups_) {
      const Run* run = shown(group);
      if (run == nullptr) {
        std::printf("%-32s failed\n", group.front().run_name.function_name.c_str());
        continue;
      }
      auto rest = run->counters;
      const auto column = [&](const char* name, const char* format, int width) {
        if (const auto it = rest.find(name); it != rest.end()) {
          std::printf(format, it->second.value);
          rest.erase(it);
        } else {
          std::printf(" %*s", width, "");
        }
      };
      const double us = time(*run) * 1e6;
      std::printf("%-32s %8.4g %s", run->run_name.function_name.c_str(), us < 1e3 ? us : us * 1e-3,
                  us < 1e3 ? "us" : "ms");
      column("GFLOP/s", " %9.2f", 9);
      column("pct_peak", " %6.1f", 6);
      column("GB/s", " %7.2f", 7);
      column("tokens/s", " %10.4g", 10);
      column("x_eigen", " %7.2f", 7);
      column("x_naive", " %7.2f", 7);
      std::printf("  %s", run->report_label.c_str());
      for (const auto& [name, counter] : rest) std::printf("  %s %.4g", name.c_str(), counter.value);
      std::printf("\n");
    }
  }

  bool write_json(const std::string& path) const {
    std::ofstream file(path);
    benchmark::JSONReporter json;
    json.SetOutputStream(&file);
    json.ReportContext(Context());
    for (const auto& [index, group] : groups_) json.ReportRuns(group);
    json.Finalize();
    return static_cast<bool>(file.flush());
  }

 private:
  template <class R> static bool failed(const R& run) {
    if constexpr (requires { run.error_occurred; })
      return run.error_occurred;
    else
      return static_cast<int>(run.skipped) != 0;  // Google Benchmark 1.8 and later
  }
  static double time(const Run& run) {  // seconds, manual or CPU time as the row's rates use it
    const double in_unit = run.run_name.time_type.empty() ? run.GetAdjustedCPUTime() : run.GetAdjustedRealTime();
    return in_unit / benchmark::GetTimeUnitMultiplier(run.time_unit);
  }
  // Returns the median, or the only repetition, or nothing if the row failed.
  static const Run* shown(const std::vector<Run>& group) {
    const Run* found = nullptr;
    for (const Run& run : group) {
      if (failed(run)) return nullptr;
      if (run.run_type == Run::RT_Iteration ? found == nullptr : run.aggregate_name == "median") found = &run;
    }
    return found;
  }

  std::map<std::int64_t, std::vector<Run>> groups_;  // in the order of registration
};

// Returns the compiler and flags of the rows.
inline std::string build_flags() {
#if defined(__clang__)
  std::string text = "clang++ " __clang_version__;
#else
  std::string text = "g++ " __VERSION__;
#endif
#if defined(HEED_BENCH_FLAGS)
  text += ", flags: " HEED_BENCH_FLAGS;
#elif defined(__OPTIMIZE__)
  text += ", optimised";
#else
  text += ", NOT optimised";
#endif
  return text;
}

// Is main() of a benchmark: puts short defaults in front of the caller's flags, measures the machine before and after
// the rows, and returns 1 if a row failed or none matched.
inline int run_all(int argc, char** argv) {
  std::vector<std::string> words{argv[0], "--benchmark_min_time=0.05", "--benchmark_repetitions=3",
                                 "--benchmark_enable_random_interleaving=true"};
  std::string out;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("--benchmark_out=")) {
      out = word.substr(std::strlen("--benchmark_out="));  // ours: the numbers are complete only at the end
      continue;
    }
    list = list || word.starts_with("--benchmark_list_tests");
    words.push_back(word);
  }
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  int count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 1;
  if (list) return benchmark::RunSpecifiedBenchmarks() == 0;

  run_state& run = current_run();
  run.before = run.best = measure_machine();
  late_reporter reporter;
  const std::size_t rows = benchmark::RunSpecifiedBenchmarks(&reporter);
  const machine after = measure_machine();
  run.best = larger(run.best, after);
  if (isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "\r\033[K");

  char peak[200];
  std::snprintf(peak, sizeof peak,
                "float %.1f (before %.1f, after %.1f), double %.1f GFLOP/s; read %.1f (%.1f, %.1f) GB/s",
                run.best.gflops_float, run.before.gflops_float, after.gflops_float, run.best.gflops_double,
                run.best.read_gbps, run.before.read_gbps, after.read_gbps);
  reporter.complete(run.best);
  reporter.print();
  std::printf("one core: %s\n%s\n", peak, build_flags().c_str());
  if (!out.empty()) {
    benchmark::AddCustomContext("one_core", peak);
    benchmark::AddCustomContext("build", build_flags());
    if (!reporter.write_json(out)) {
      std::fprintf(stderr, "cannot write %s\n", out.c_str());
      return 1;
    }
  }
  if (run.rows_above_peak > 0) std::fprintf(stderr, "%d repetitions above 101 %% of the peak\n", run.rows_above_peak);
  return rows == 0 || run.rows_above_peak > 0;
}

}  // namespace heed_bench
