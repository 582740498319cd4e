// SPDX-License-Identifier: BSD-3-Clause

// Executors that do not do what executor_ref asks of them: each index runs at most once, none when run() has returned.

#include <atomic>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "heed/core/context.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"

namespace {

using heed::executor_ref;
using heed::index_t;
using heed_test::scripted_executor;
using body = scripted_executor::task;

struct outcome {
  std::vector<int> times;
  std::string error;
};
outcome run(scripted_executor& executor, index_t n) {
  outcome x{std::vector<int>(static_cast<std::size_t>(n)), ""};
  auto task = [&x](index_t i) noexcept { ++x.times[static_cast<std::size_t>(i)]; };
  x.error = heed_test::thrown_by([&] { executor_ref(executor).run(n, task); });
  return x;
}

const std::string rule = " tasks: parallel_for(n, f) must call f(0) to f(n - 1)";

TEST_CASE("an executor that leaves indices out is an error that says how many ran") {
  for (index_t left = 0; left < 4; ++left) {
    scripted_executor executor{4, [left](index_t n, const body& f) {
                                 for (index_t i = 0; i < n; ++i)
                                   if (i != left) f(i);
                               }};
    const outcome x = run(executor, 4);
    CHECK(x.error == "context.executor ran 3 of 4" + rule + " before it returns");
    for (index_t i = 0; i < 4; ++i) CHECK(x.times[static_cast<std::size_t>(i)] == (i == left ? 0 : 1));
  }
  scripted_executor idle{4, [](index_t, const body&) {}};
  CHECK(run(idle, 3).error == "context.executor ran 0 of 3" + rule + " before it returns");
}

TEST_CASE("an executor that runs indices twice runs each once") {
  scripted_executor in_turn{4, [](index_t n, const body& f) {
                              for (index_t i = 0; i < 3 * n; ++i) f(i % n);
                            }};
  CHECK(run(in_turn, 4).error.empty());
  CHECK(run(in_turn, 4).times == std::vector<int>(4, 1));
  scripted_executor at_once{4, [](index_t n, const body& f) {
                              std::vector<std::thread> all;
                              for (int t = 0; t < 3; ++t)
                                all.emplace_back([&f, n] {
                                  for (index_t i = 0; i < n; ++i) f(i);
                                });
                              for (std::thread& t : all) t.join();
                            }};
  for (int repeat = 0; repeat < 50; ++repeat) {
    const outcome x = run(at_once, 4);
    CHECK((x.error.empty() && x.times == std::vector<int>(4, 1)));
  }
}

TEST_CASE("an executor that calls an index that does not exist is an error that names it") {
  for (const index_t stray :
       {index_t{-1}, index_t{4}, std::numeric_limits<index_t>::max(), std::numeric_limits<index_t>::min()}) {
    scripted_executor executor{4, [stray](index_t n, const body& f) {
                                 f(stray);
                                 for (index_t i = 0; i < n; ++i) f(i);
                               }};
    const outcome x = run(executor, 4);
    CHECK(x.error == "context.executor called f(" + std::to_string(stray) + ") of 4" + rule);
    CHECK(x.times == std::vector<int>(4, 1));
  }
}

TEST_CASE("what an executor throws leaves run(), after the tasks that had begun") {
  std::atomic<bool> begun = false, ended = false;
  std::thread other;
  scripted_executor executor{2, [&](index_t, const body& f) {
                               other = std::thread([f] { f(1); });
                               while (!begun) std::this_thread::yield();
                               throw std::runtime_error("no more threads");
                             }};
  auto task = [&](index_t) noexcept {
    begun = true;
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    ended = true;
  };
  std::string text;
  bool after = false;
  try {
    executor_ref(executor).run(2, task);
  } catch (const std::runtime_error& e) {
    text = e.what(), after = ended;
  }
  CHECK((text == "no more threads" && after));
  other.join();
}

TEST_CASE("an executor that returns early: run() waits for what runs, and reports what has not begun") {
  std::atomic<bool> begun = false, ended = false;
  std::thread other;
  scripted_executor executor{2, [&](index_t, const body& f) {
                               other = std::thread([f] { f(1); });
                               while (!begun) std::this_thread::yield();
                             }};
  auto task = [&](index_t) noexcept {
    begun = true;
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    ended = true;
  };
  const std::string text = heed_test::thrown_by([&] { executor_ref(executor).run(2, task); });
  const bool after = ended;
  CHECK(text == "context.executor ran 1 of 2" + rule + " before it returns");
  CHECK(after);
  other.join();
}

TEST_CASE("concurrency is at most 1024; more tasks run in rounds") {
  std::vector<index_t> rounds;
  scripted_executor executor{index_t{1} << 60, [&rounds](index_t n, const body& f) {
                               rounds.push_back(n);
                               for (index_t i = n; i > 0; --i) f(i - 1);
                             }};
  CHECK(executor_ref(executor).concurrency() == 1024);
  const outcome x = run(executor, 2500);
  CHECK((x.error.empty() && x.times == std::vector<int>(2500, 1)));
  CHECK(rounds == std::vector<index_t>{1024, 1024, 452});
}

}  // namespace
