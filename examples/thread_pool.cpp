// SPDX-License-Identifier: BSD-3-Clause
//
// Runs causal attention on a pool of threads, through the two members that heed needs of an executor. The result has
// the bits of the serial call. The first argument is the number of threads.
// g++ -std=c++20 -O2 -march=native -pthread -I include thread_pool.cpp
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <mutex>
#include <random>
#include <stop_token>
#include <thread>
#include <vector>

#include "heed/softmax.hpp"

// Runs tasks on the calling thread and threads - 1 workers, which sleep between calls. A call from inside f, or while
// another thread uses the pool, runs on its own thread alone.
class thread_pool {
 public:
  explicit thread_pool(heed::index_t threads) {
    for (heed::index_t i = 1; i < threads; ++i) workers_.emplace_back([this](std::stop_token stop) { serve(stop); });
  }

  heed::index_t concurrency() const { return std::ssize(workers_) + 1; }

  void parallel_for(heed::index_t n, const std::function<void(heed::index_t)>& f) {
    std::unique_lock lock(mutex_);
    if (job_ != nullptr) {
      lock.unlock();
      for (heed::index_t i = 0; i < n; ++i) f(i);
      return;
    }
    job_ = &f;
    next_ = 0;
    count_ = n;
    if (n > 1) wake_.notify_all();
    work(lock);
    done_.wait(lock, [this] { return running_ == 0; });
    job_ = nullptr;
  }

 private:
  void work(std::unique_lock<std::mutex>& lock) {  // holds the lock, except while f runs
    while (next_ < count_) {
      const heed::index_t index = next_++;
      const auto& f = *job_;
      ++running_;
      lock.unlock();
      f(index);
      lock.lock();
      --running_;
    }
  }
  void serve(std::stop_token stop) {
    std::unique_lock lock(mutex_);
    while (wake_.wait(lock, stop, [this] { return next_ < count_; })) {
      work(lock);
      if (running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;  // guards the members below
  std::condition_variable_any wake_;  // _any: it takes stop tokens
  std::condition_variable done_;
  const std::function<void(heed::index_t)>* job_ = nullptr;
  heed::index_t next_ = 0, count_ = 0, running_ = 0;
  std::vector<std::jthread> workers_;  // last, so that they stop and join before the other members go
};

int main(int argc, char** argv) {
  constexpr heed::index_t heads = 8, seq = 2048, dim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q_data(heads * seq * dim), k_data(q_data.size()), v_data(q_data.size());
  for (auto* x : {&q_data, &k_data, &v_data}) std::generate(x->begin(), x->end(), [&] { return normal(random); });
  std::vector<float> serial(q_data.size()), parallel(q_data.size());

  const auto view = [](std::vector<float>& x) { return heed::bhsd(x.data(), 1, heads, seq, dim); };
  const auto q = view(q_data), k = view(k_data), v = view(v_data);
  const heed::softmax::options<> options{.mask = heed::causal()};

  // Returns the best of five calls in milliseconds. Allocates the scratch once.
  const auto time = [&](std::vector<float>& o_data, heed::context context) {
    const auto o = view(o_data);
    std::vector<std::byte> scratch(heed::softmax::plan_forward(q, k, v, o, options, context).workspace_bytes);
    context.workspace = scratch;
    double best = 1e300;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      heed::softmax::forward(q, k, v, o, options, context);
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
      best = std::min(best, took.count());
    }
    return best;
  };

  thread_pool pool(argc > 1 ? std::atoi(argv[1]) : static_cast<heed::index_t>(std::thread::hardware_concurrency()));
  const double one = time(serial, {}), all = time(parallel, {.executor = pool});
  const bool same = std::memcmp(serial.data(), parallel.data(), serial.size() * sizeof(float)) == 0;
  std::printf("causal attention, %td heads, %td tokens: one thread %.1f ms, %td threads %.1f ms, %.2f times as fast\n",
              heads, seq, one, pool.concurrency(), all, one / all);
  std::printf("the bits are %s\n", same ? "the same" : "different");
  return same ? 0 : 1;
}
