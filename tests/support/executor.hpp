// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "heed/core/types.hpp"
#include "support/random.hpp"

namespace heed_test {

enum class order { forward, reversed, shuffled };

// An executor that runs its indices in an order of choice, one after the other or each on a thread of its own, and
// remembers whether it was ever asked for more than it offers.
class test_executor {
 public:
  explicit test_executor(heed::index_t workers, order in = order::forward, bool threads = false)
      : workers_(workers), order_(in), threads_(threads) {}

  heed::index_t concurrency() const { return workers_; }

  template <class F> void parallel_for(heed::index_t n, F&& f) {
    ++phases_;
    asked_too_much_ |= n > workers_;
    std::vector<heed::index_t> indices(static_cast<std::size_t>(n));
    std::iota(indices.begin(), indices.end(), heed::index_t{0});
    if (order_ == order::reversed) std::reverse(indices.begin(), indices.end());
    if (order_ == order::shuffled)
      for (std::size_t i = indices.size(); i > 1; --i)
        std::swap(indices[i - 1], indices[static_cast<std::size_t>(random_.below(static_cast<std::int32_t>(i)))]);
    if (!threads_) {
      for (const heed::index_t i : indices) f(i);
      return;
    }
    std::vector<std::thread> running;
    for (const heed::index_t i : indices) running.emplace_back([&f, i] { f(i); });
    for (std::thread& thread : running) thread.join();
  }

  int phases() const { return phases_; }
  bool asked_too_much() const { return asked_too_much_; }

 private:
  heed::index_t workers_;
  order order_;
  bool threads_, asked_too_much_ = false;
  int phases_ = 0;
  random_numbers random_{20};
};

// An executor that calls f as `how` says, and counts its runs: for what executors must not do, too.
struct scripted_executor {
  using task = std::function<void(heed::index_t)>;

  heed::index_t workers;
  std::function<void(heed::index_t n, const task& f)> how;
  int runs = 0;

  heed::index_t concurrency() const { return workers; }
  template <class F> void parallel_for(heed::index_t n, const F& f) {
    ++runs;
    how(n, [f](heed::index_t i) { f(i); });
  }
};

}  // namespace heed_test
