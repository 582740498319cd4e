// SPDX-License-Identifier: BSD-3-Clause

// eigen_thread_pool_executor: the serial bits and every index once, from outside and inside of the pool, and with pools
// that are busy, cancelled, empty or out of memory.

#include "heed/interop/eigen_thread_pool.hpp"

#include <future>
#include <new>

#include "interop/executor_cases.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

using executor = heed::eigen_thread_pool_executor;
static_assert(std::is_convertible_v<executor&, heed::executor_ref>);
static_assert(std::is_convertible_v<const executor&, heed::executor_ref>);
static_assert(!std::is_convertible_v<Eigen::ThreadPool&, heed::executor_ref>);

// f on a thread of the pool. "deadlock" instead of an endless test; the pool must then be left alone, so it aborts.
template <class F> std::string inside(Eigen::ThreadPool& pool, F f) {
  std::promise<std::string> result;
  std::future<std::string> ready = result.get_future();
  pool.Schedule([&] { result.set_value(pool.CurrentThreadId() < 0 ? "not in the pool" : f()); });
  if (ready.wait_for(std::chrono::seconds(300)) == std::future_status::ready) return ready.get();
  std::fputs("deadlock inside the pool\n", stderr);
  std::abort();
}

struct fake_pool : Eigen::ThreadPoolInterface {  // runs nothing by itself
  int threads, accepts;
  std::vector<std::function<void()>> taken;

  fake_pool(int threads_, int accepts_) : threads(threads_), accepts(accepts_) {}
  void Schedule(std::function<void()> f) override {
    if (static_cast<int>(taken.size()) == accepts) throw std::bad_alloc();
    taken.push_back(std::move(f));
  }
  int NumThreads() const override { return threads; }
  int CurrentThreadId() const override { return -1; }
};

}  // namespace

TEST_CASE("eigen pool: the same bits and every index once") {
  for (const int size : {1, 2, 4}) {
    Eigen::ThreadPool pool(size);
    for (const index_t threads : {0, 1, 2, 3, 5}) {
      const executor x(pool, threads);
      INFO("pool of " << size << ", " << threads << " threads asked, " << x.concurrency() << " offered");
      CHECK(x.concurrency() == (threads == 0 ? size : std::min<index_t>(threads, size + 1)));
      CHECK(differing(x) == "");
      CHECK(differing<double>(x) == "");
      CHECK(miscounted(x) == "");
    }
  }
}

TEST_CASE("eigen pool: the calling thread and the pool's work at once") {
  Eigen::ThreadPool pool(3);
  for (const index_t threads : {2, 3, 4}) {
    const executor x(pool, threads);
    std::set<std::thread::id> seen;
    CHECK(run_at_once(x, threads, &seen));
    CHECK(static_cast<index_t>(seen.size()) == threads);
    CHECK(seen.count(std::this_thread::get_id()) == 1);
  }
}

TEST_CASE("eigen pool: from a thread of the pool, even its only one") {
  for (const int size : {1, 2, 3}) {
    Eigen::ThreadPool pool(size);
    for (const index_t threads : {0, 1, size + 1}) {
      const executor x(pool, threads);
      INFO("pool of " << size << ", " << threads << " threads asked");
      CHECK(inside(pool, [&] { return differing(x) + miscounted(x); }) == "");
    }
  }
}

TEST_CASE("eigen pool: every thread of the pool calls at once, and calls within calls") {
  Eigen::ThreadPool pool(3);
  const executor x(pool, 4);
  const executor callers(pool, 3);
  std::vector<std::string> wrong(6);
  callers.parallel_for(6,
                       [&](index_t i) noexcept { wrong[static_cast<std::size_t>(i)] = differing(x) + miscounted(x); });
  CHECK(wrong == std::vector<std::string>(6));

  std::atomic<int> count{0};
  for (int repeat = 0; repeat < 200; ++repeat)
    x.parallel_for(4, [&](index_t) noexcept {
      x.parallel_for(3, [&](index_t) noexcept { x.parallel_for(2, [&](index_t) noexcept { ++count; }); });
    });
  CHECK(count == 200 * 24);
}

TEST_CASE("eigen pool: from several threads of the program at once") {
  Eigen::ThreadPool pool(2);
  const executor x(pool, 3);
  std::vector<std::string> wrong(4);
  std::vector<std::thread> threads;
  for (std::string& mine : wrong) threads.emplace_back([&] { mine = differing(x) + miscounted(x); });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<std::string>(4));
}

TEST_CASE("eigen pool: busy threads are not waited for, and come too late for anything") {
  Eigen::ThreadPool pool(2);
  std::promise<void> gate;
  const std::shared_future<void> open = gate.get_future().share();
  for (int i = 0; i < 2; ++i) pool.Schedule([open] { open.wait(); });
  const executor x(pool, 3);
  CHECK(differing(x) == "");
  CHECK(miscounted(x) == "");
  gate.set_value();  // the closures of the calls above run now, or when the pool ends
}

TEST_CASE("eigen pool: a cancelled pool gives no help, and the caller needs none") {
  Eigen::ThreadPool pool(2);
  pool.Cancel();
  const executor x(pool);
  CHECK(differing(x) == "");
  CHECK(miscounted(x) == "");
}

TEST_CASE("eigen pool: any ThreadPoolInterface") {
  fake_pool none(0, 0);
  const executor alone(none, 7);
  CHECK(alone.concurrency() == 1);
  CHECK(executor(none).concurrency() == 1);
  CHECK(differing(alone) == "");
  CHECK(miscounted(alone) == "");

  fake_pool lazy(4, 1000);
  const executor x(lazy);
  std::vector<int> times(4);
  x.parallel_for(4, [&](index_t i) noexcept { ++times[static_cast<std::size_t>(i)]; });
  CHECK(lazy.taken.size() == 3);
  for (const auto& late : lazy.taken) late();
  CHECK(times == std::vector<int>(4, 1));
}

TEST_CASE("eigen pool: where the pool cannot take a closure, all indices run before the exception passes") {
  fake_pool full(4, 1);
  const executor x(full);
  std::vector<int> times(4);
  CHECK_THROWS_AS(x.parallel_for(4, [&](index_t i) noexcept { ++times[static_cast<std::size_t>(i)]; }), std::bad_alloc);
  CHECK(times == std::vector<int>(4, 1));
}

TEST_CASE("eigen pool: what the caller's functions throw reaches the caller, from outside and inside of the pool") {
  for (const int size : {1, 2, 4}) {
    Eigen::ThreadPool pool(size);
    const executor x(pool, size + 1);
    CHECK(mishandled_exceptions(x) == "");
    CHECK(inside(pool, [&] { return mishandled_exceptions(x); }) == "");
  }
}
