// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Ranks as threads of one process: for tests, and to try the verbs without a network.

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "heed/core/error.hpp"
#include "heed/core/message.hpp"
#include "heed/distributed/network.hpp"

namespace heed::distributed {

// A group of ranks that share memory. Each rank takes its network(rank) and uses it from one thread:
//   heed::distributed::thread_group group(4);
//   group.run([&](heed::distributed::thread_group::network net) { ... });
class thread_group {
  struct message {
    std::span<const std::byte> from;
    std::span<std::byte> to;
    bool sends = false, done = false;
  };
  using pointer = std::shared_ptr<message>;

 public:
  static constexpr int channels = 8;

  // ranks: at least 1
  HEED_INLINE explicit thread_group(index_t ranks) : size_(ranks) {
    if (ranks < 1) heed::detail::fail("thread_group: ranks is %, must be at least 1", ranks);
    queues_.resize(static_cast<std::size_t>(ranks * ranks * channels));
  }
  thread_group(const thread_group&) = delete;
  thread_group& operator=(const thread_group&) = delete;

  // One rank's end. A message is copied by the side that starts last, straight from the memory of the sender.
  class network {
   public:
    using request = pointer;

    HEED_INLINE network(thread_group& group, index_t rank) : group_(&group), rank_(rank) {}
    HEED_INLINE index_t rank() const { return rank_; }
    HEED_INLINE index_t size() const { return group_->size_; }
    HEED_INLINE request start_send(index_t to, int channel, std::span<const std::byte> bytes) {
      return group_->start(rank_, to, channel, {bytes, {}, true, false});
    }
    HEED_INLINE request start_receive(index_t from, int channel, std::span<std::byte> bytes) {
      return group_->start(from, rank_, channel, {{}, bytes, false, false});
    }
    HEED_INLINE bool wait(request& r, std::chrono::milliseconds timeout) { return group_->wait(r, timeout); }
    HEED_INLINE bool cancel(request& r) { return group_->cancel(r); }
    HEED_INLINE bool all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                std::chrono::milliseconds timeout) {
      return group_->all_gather(rank_, mine, all, timeout);
    }
    HEED_INLINE void abandon(const char* text) { group_->abandon(text); }

   private:
    thread_group* group_;
    index_t rank_;
  };

  HEED_INLINE network rank(index_t r) {
    if (r < 0 || r >= size_) heed::detail::fail("thread_group: rank is %, must be 0 to %", r, size_ - 1);
    return {*this, r};
  }

  // f(network) for every rank, each on a thread of its own. Rethrows what the lowest rank threw, if any did; a rank
  // that leaves by an exception makes the others' calls fail.
  template <class F> HEED_INLINE void run(const F& f) {
    std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(size_));
    {
      std::vector<std::jthread> threads;
      for (index_t r = 0; r < size_; ++r)
        threads.emplace_back([this, &f, &thrown, r] { run_rank(f, r, thrown[static_cast<std::size_t>(r)]); });
    }
    for (const std::exception_ptr& each : thrown)
      if (each != nullptr) std::rethrow_exception(each);
  }

 private:
  template <class F> HEED_INLINE void run_rank(const F& f, index_t r, [[maybe_unused]] std::exception_ptr& thrown) {
#if defined(HEED_ON_ERROR)
    f(rank(r));
#else
    try {
      f(rank(r));
    } catch (...) {
      thrown = std::current_exception();
      abandon("another rank has left by an exception");
    }
#endif
  }

  HEED_INLINE void check_open() const {
    if (abandoned_) heed::detail::fail(text_.c_str());
  }
  HEED_INLINE pointer start(index_t from, index_t to, int channel, message given) {
    const std::lock_guard<std::mutex> lock(mutex_);
    check_open();
    if (from < 0 || to < 0 || from >= size_ || to >= size_ || channel < 0 || channel >= channels)
      heed::detail::fail("thread_group: a message from rank % to % on channel %: there is none", from, to, channel);
    auto& queue = queues_[static_cast<std::size_t>((from * size_ + to) * channels + channel)];
    pointer mine = std::make_shared<message>(given);
    if (queue.empty() || queue.front()->sends == given.sends) {
      queue.push_back(mine);
      return mine;
    }
    const pointer other = queue.front();
    const message &sender = given.sends ? *mine : *other, &receiver = given.sends ? *other : *mine;
    if (sender.from.size() != receiver.to.size())
      heed::detail::fail("thread_group: rank % sends % bytes, rank % receives %", from, sender.from.size(), to,
                         receiver.to.size());
    queue.pop_front();
    if (!sender.from.empty()) std::memcpy(receiver.to.data(), sender.from.data(), sender.from.size());
    mine->done = other->done = true;
    changed_.notify_all();
    return mine;
  }
  HEED_INLINE bool wait(const pointer& r, std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return r->done || abandoned_; });
    if (!r->done) check_open();
    return r->done;
  }
  HEED_INLINE bool cancel(const pointer& r) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& queue : queues_) queue.erase(std::remove(queue.begin(), queue.end(), r), queue.end());
    return true;
  }
  HEED_INLINE bool all_gather(index_t rank, std::span<const std::byte> mine, std::span<std::byte> all,
                              std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    check_open();
    const auto ranks = static_cast<std::size_t>(size_), r = static_cast<std::size_t>(rank);
    if (all.size() != ranks * mine.size())
      heed::detail::fail("thread_group: all_gather of % bytes into %", mine.size(), all.size());
    const std::size_t round = rounds_;
    if (arrived_ == 0) gathered_ = std::make_shared<std::vector<std::byte>>(all.size());
    const auto into = gathered_;  // the next round has another
    if (into->size() != all.size()) heed::detail::fail("thread_group: ranks gather different sizes");
    if (!mine.empty()) std::memcpy(into->data() + r * mine.size(), mine.data(), mine.size());
    if (++arrived_ == size_) {
      arrived_ = 0, ++rounds_;
      changed_.notify_all();
    }
    changed_.wait_for(lock, timeout, [&] { return rounds_ != round || abandoned_; });
    if (rounds_ == round) {
      check_open();
      return false;
    }
    if (!mine.empty()) std::memcpy(all.data(), into->data(), all.size());
    return true;
  }
  HEED_INLINE void abandon(const char* text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!abandoned_) text_ = text;
    abandoned_ = true;
    changed_.notify_all();
  }

  index_t size_, arrived_ = 0;
  std::size_t rounds_ = 0;
  bool abandoned_ = false;
  std::string text_;  // why
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<pointer>> queues_;  // by sender, receiver and channel: what one side has started
  std::shared_ptr<std::vector<std::byte>> gathered_;
};

}  // namespace heed::distributed
