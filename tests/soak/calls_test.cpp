// SPDX-License-Identifier: BSD-3-Clause

// Random calls of all verbs, again and again, from several threads that share executors: a pool for all, and one for
// each. Now and then a call is refused (a small workspace, a wrong shape) or a function of the caller's throws. Each
// result has the bits of the same call made alone before, and memory does not grow. HEED_SOAK_SECONDS: how long.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "soak/cache_calls.hpp"
#include "soak/calls.hpp"
#include "soak/long_run.hpp"
#include "soak/memory_use.hpp"
#include "soak/pairwise_calls.hpp"
#include "soak/recurrent_calls.hpp"
#include "soak/shared_pool.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

// The verbs of one element type, with caches of it and of 8 bits; without heed::dispatch those that are soon compiled
template <class T> void add_calls(std::vector<random_call>& all, std::uint32_t seed) {
  all.push_back(softmax_forward<T>(seed));
  all.push_back(softmax_decode<ring_maker<T>, T>(seed + 4));
  all.push_back(cache_life<ring_maker<T>, T>(seed + 20));
  all.push_back(lightning_call<T>(recurrent_verb::forward, seed + 2));
#ifdef HEED_DISPATCH
  all.push_back(softmax_prepared<T>(seed + 1));
  all.push_back(lightning_call<T>(recurrent_verb::decode, seed + 3));
  all.push_back(cache_life<paged_maker<T>, T>(seed + 5));
  all.push_back(softmax_backward<T>(seed + 6));
  all.push_back(mixture_forward<T>(seed + 7));
  all.push_back(mixture_backward<T>(seed + 8));
  all.push_back(local_linear_forward<T>(seed + 9));
  all.push_back(local_linear_backward<T>(seed + 10));
  all.push_back(linear_call<T>(recurrent_verb::forward, seed + 11));
  all.push_back(linear_call<T>(recurrent_verb::backward, seed + 12));
  all.push_back(linear_call<T>(recurrent_verb::decode, seed + 13));
  all.push_back(lightning_call<T>(recurrent_verb::backward, seed + 14));
  all.push_back(softmax_decode<contiguous_maker<T>, T>(seed + 15));
  all.push_back(softmax_decode<paged_maker<T>, T>(seed + 16));
  all.push_back(mixture_decode<ring_maker<T>, T>(seed + 17));
  all.push_back(local_linear_decode<paged_maker<T>, T>(seed + 18));
  all.push_back(prefix_decode<T>(seed + 19));
  all.push_back(convert_call<T, float>(seed + 21));
  if constexpr (!std::is_same_v<T, double>) {
    all.push_back(softmax_decode<contiguous_maker<std::int8_t>, T>(seed + 22));
    all.push_back(cache_life<contiguous_maker<std::int8_t>, T>(seed + 23));
  }
  if constexpr (sizeof(T) > 2) all.push_back(merge_call<T>(seed + 24));
#endif
}

std::vector<random_call> make_calls() {
  std::vector<random_call> all;
#ifdef HEED_DISPATCH
  for (std::uint32_t seed = 1000; seed < 4000; seed += 1000) {
    add_calls<float>(all, seed);
    add_calls<double>(all, seed + 100);
    add_calls<heed::bf16_t>(all, seed + 200);
    add_calls<heed::f16_t>(all, seed + 300);
    all.push_back(convert_call<double, heed::bf16_t>(seed + 400));
    all.push_back(quantize_call(seed + 401));
  }
#else
  for (std::uint32_t seed = 1000; seed < 5000; seed += 1000) add_calls<float>(all, seed);
#endif
  return all;
}

constexpr int callers = 3;

class soak {
 public:
  soak() : calls_(make_calls()) {
    for (const random_call& call : calls_) {
      const outcome alone = call.run({});
      if (!alone.wrong.empty()) note(call, alone.wrong + ", alone");
      expected_.push_back(alone.hash);
    }
  }

  // Runs for so many seconds on all callers, and every call at least `rounds` times on each.
  void run(double seconds, std::size_t rounds) {
    using clock = std::chrono::steady_clock;
    const auto end = clock::now() + std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(seconds));
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back([this, i, end, rounds] { work(i, end, rounds); });
    for (std::thread& thread : threads) thread.join();
  }

  long count() const { return count_; }
  std::size_t calls() const { return calls_.size(); }
  std::string wrong() const { return wrong_; }
  long refused() const { return refused_; }

 private:
  void work(int caller, std::chrono::steady_clock::time_point end, std::size_t rounds) {
    random_numbers random(static_cast<std::uint32_t>(caller) + seed_.fetch_add(100));
    shared_pool own(1);
    std::vector<std::byte> workspace;
    for (std::size_t i = 0; i < rounds * calls_.size() || std::chrono::steady_clock::now() < end; ++i) {
      const std::size_t which = i < rounds * calls_.size()
                                    ? (i + static_cast<std::size_t>(caller) * calls_.size() / callers) % calls_.size()
                                    : static_cast<std::size_t>(random.below(static_cast<std::int32_t>(calls_.size())));
      place at{.throws_at = random.below(200), .workspace = &workspace};
      const int executor = random.below(4), how = random.below(8);
      if (executor == 1) at.executor = own;
      if (executor > 1) at.executor = shared_;
      if (how < 5) at.how = manners[how];
      const outcome got = calls_[which].run(at);
      ++count_;
      if (!got.wrong.empty())
        note(calls_[which], got.wrong + ", manner " + std::to_string(how));
      else if (got.hash == 0)
        ++refused_;
      else if (got.hash != expected_[which])
        note(calls_[which], "other bits than alone, manner " + std::to_string(how));
    }
  }
  void note(const random_call& call, const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (wrong_.size() < 4000) wrong_ += call.name + ": " + what + "\n";
  }

  std::vector<random_call> calls_;
  std::vector<std::uint64_t> expected_;
  shared_pool shared_{2};
  std::atomic<std::uint32_t> seed_{1};
  std::atomic<long> count_{0}, refused_{0};
  std::mutex mutex_;  // guards wrong_
  std::string wrong_;
};

}  // namespace

TEST_CASE("random calls from threads that share executors") {
  // MiB: what malloc keeps of small pieces for each thread, and pages of its heaps that are partly in use
  constexpr double allocated_slack = 0.25, resident_slack = 4;
  const double seconds = soak_seconds(), part = std::min(60.0, seconds / 4);
  const auto begin = std::chrono::steady_clock::now();
  return_large_pieces();
  soak all;
  all.run(part, 1);  // warm-up
  const memory_use before = memory_use::now();
  memory_use after = before;
  long counted = all.count();
  for (double left = seconds - part; left > 0; left -= part) {
    const auto from = std::chrono::steady_clock::now();
    all.run(std::min(part, left), 0);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - from,
                                        since = std::chrono::steady_clock::now() - begin;
    after = memory_use::now();
    if (soak_reports())
      std::printf("%6.0f s: %10ld calls, %8.0f a second, %6.1f MiB resident, %6.2f MiB allocated\n", since.count(),
                  all.count(), static_cast<double>(all.count() - counted) / took.count(), after.resident,
                  after.allocated);
    counted = all.count();
    std::fflush(stdout);
  }
  if (soak_reports())
    std::printf(
        "%zu different calls, %ld runs, %ld of them refused or thrown; growth since the warm-up: %.1f MiB "
        "resident, %.2f MiB allocated\n",
        all.calls(), all.count(), all.refused(), after.resident - before.resident, after.allocated - before.allocated);
  INFO(all.wrong());
  CHECK(all.wrong().empty());
  CHECK(all.count() >= static_cast<long>(callers * all.calls()));
  CHECK(all.refused() > 0);
  INFO(before.resident << " MiB resident, then " << after.resident << "; " << before.allocated << " allocated, then "
                       << after.allocated);
  if constexpr (memory_is_measured) {
    CHECK(before.resident > 1);
    CHECK(after.resident - before.resident <= resident_slack);
    CHECK(after.allocated - before.allocated <= allocated_slack);
  } else {
    WARN("the memory of this process cannot be measured here");
  }
}
