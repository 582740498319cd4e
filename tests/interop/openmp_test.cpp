// SPDX-License-Identifier: BSD-3-Clause

// openmp_executor: the serial bits and every index once, whatever OpenMP's settings grant. CMake runs this program a
// second time under OMP_THREAD_LIMIT.

#include "heed/interop/openmp.hpp"

#include <algorithm>

#include "interop/executor_cases.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

static_assert(std::is_convertible_v<heed::openmp_executor&, heed::executor_ref>);
static_assert(std::is_convertible_v<const heed::openmp_executor&, heed::executor_ref>);

index_t limit() { return std::max(omp_get_thread_limit(), 1); }

// Restores what a test sets of this thread's OpenMP.
struct settings {
  int threads = omp_get_max_threads(), levels = omp_get_max_active_levels(), dynamic = omp_get_dynamic();
  ~settings() {
    omp_set_num_threads(threads);
    omp_set_max_active_levels(levels);
    omp_set_dynamic(dynamic);
  }
};

// The same check from `threads` threads of one region at once: all that is wrong.
template <class F> std::string in_region(int threads, F check) {
  std::string wrong;
#pragma omp parallel num_threads(threads)
  {
    const std::string mine = check();
#pragma omp critical
    wrong += mine;
  }
  return wrong;
}

}  // namespace

TEST_CASE("openmp: the same bits and every index once") {
  for (const index_t threads : {0, 1, 2, 3, 5}) {
    const heed::openmp_executor executor(threads);
    INFO(threads << " threads asked, " << executor.concurrency() << " offered");
    CHECK(differing(executor) == "");
    CHECK(differing<double>(executor) == "");
    CHECK(miscounted(executor) == "");
  }
}

TEST_CASE("openmp: as many threads as asked, within the limit") {
  const settings restore;
  omp_set_dynamic(0);
  for (const index_t threads : {1, 2, 4}) {
    const heed::openmp_executor executor(threads);
    CHECK(executor.concurrency() == std::min(threads, limit()));
    CHECK(run_at_once(executor, executor.concurrency()));
  }
}

TEST_CASE("openmp: without a number it follows OpenMP's own") {
  const settings restore;
  const heed::openmp_executor executor, negative(-2);
  for (const int threads : {1, 3, 2}) {
    omp_set_num_threads(threads);
    CHECK(executor.concurrency() == std::min<index_t>(threads, limit()));
    CHECK(negative.concurrency() == executor.concurrency());
  }
}

TEST_CASE("openmp: the runtime may grant fewer threads") {
  const settings restore;
  omp_set_dynamic(1);
  const heed::openmp_executor executor(64);
  CHECK(differing(executor) == "");
  CHECK(miscounted(executor) == "");
}

TEST_CASE("openmp: inside a parallel region, without and with nesting") {
  const settings restore;
  for (const int levels : {1, 2, 3}) {
    INFO(levels << " active levels");
    omp_set_max_active_levels(levels);
    const heed::openmp_executor executor(3);
    // The region itself may be inactive (one thread, under a limit of one).
    const std::string wrong = in_region(2, [&] {
      const index_t expected = omp_get_active_level() < levels ? std::min<index_t>(3, limit()) : 1;
      const std::string offered = executor.concurrency() == expected ? "" : "another concurrency; ";
      return offered + differing(executor) + miscounted(executor);
    });
    CHECK(wrong == "");
  }
}

TEST_CASE("openmp: parallel_for inside parallel_for, a single and a task") {
  const settings restore;
  omp_set_max_active_levels(2);
  const heed::openmp_executor executor(2);
  std::atomic<int> count{0};
  executor.parallel_for(3, [&](index_t) noexcept { executor.parallel_for(4, [&](index_t) noexcept { ++count; }); });
  CHECK(count == 12);
  std::string wrong;
#pragma omp parallel num_threads(2)
#pragma omp single
  {
    wrong += miscounted(executor);
#pragma omp task shared(wrong)
    wrong += differing(executor);
#pragma omp taskwait
  }
  CHECK(wrong == "");
}

TEST_CASE("openmp: from several threads of the program at once") {
  const heed::openmp_executor executor(2);
  std::vector<std::string> wrong(3);
  std::vector<std::thread> threads;
  for (std::string& mine : wrong) threads.emplace_back([&] { mine = differing(executor) + miscounted(executor); });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<std::string>(3));
}

TEST_CASE("openmp: what the caller's functions throw reaches the caller") {
  for (const index_t threads : {1, 2, 3, 5}) {
    const heed::openmp_executor executor(threads);
    CHECK(mishandled_exceptions(executor) == "");
  }
}
