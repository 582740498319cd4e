// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call that all ranks make: waits with a timeout, memory that outlives its messages, errors that all ranks hear of.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <exception>
#include <type_traits>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/message.hpp"
#include "heed/distributed/network.hpp"
#include "heed/distributed/options.hpp"

namespace heed::distributed::detail {

enum channel : int { keys_channel = 0, gradients_channel = 1, home_channel = 2, states_channel = 3 };

// What ranks tell each other before a call. numbers: as many as the call has, equal on all ranks or of this rank alone.
struct call_header {
  static constexpr int capacity = 32;
  heed::detail::problem_text problem{};
  std::array<std::int64_t, capacity> numbers{};
};

// How the work of a rank ended.
struct call_status {
  heed::detail::problem_text problem{};  // empty: well
};

inline namespace HEED_ISA {

template <class T> std::span<const std::byte> bytes_of(const T& x) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span<const T, 1>(&x, 1));
}

// Closes the network where a scope is left by an exception while messages may be on their way: peers are told, where
// the network can, and no later call takes such a message for its own.
template <network N> class open_messages {
 public:
  explicit open_messages(N& net) : net_(net), thrown_(std::uncaught_exceptions()) {}
  ~open_messages() {
    if (std::uncaught_exceptions() > thrown_) net_.abandon("a call over ranks was left by an exception");
  }
  open_messages(const open_messages&) = delete;
  open_messages& operator=(const open_messages&) = delete;

 private:
  N& net_;
  int thrown_;
};

// Waits and gathers for a call; a timeout breaks the network, and with it the call on every rank. A timeout that is not
// above 0 is for the agreement to refuse: until then the default one holds.
template <network N> class session {
 public:
  static constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);  // clocks count on from now

  session(N& net, std::chrono::milliseconds timeout)
      : net_(net),
        timeout_(timeout.count() > 0 ? std::min(timeout, longest) : options{}.timeout),
        rank_(net.rank()),
        size_(net.size()) {
    if (size_ < 1 || rank_ < 0 || rank_ >= size_)
      heed::detail::fail("network: rank % of %, must be 0 to size - 1", rank_, size_);
  }

  N& net() const { return net_; }
  index_t rank() const { return rank_; }
  index_t size() const { return size_; }
  index_t after(index_t steps) const { return (rank_ + steps) % size_; }
  index_t before(index_t steps) const { return (rank_ + size_ - steps % size_) % size_; }

  void wait(typename N::request& r, const char* what, index_t peer) const {
    if (net_.wait(r, timeout_)) return;
    give_up("rank %: % rank % not done after % ms", rank_, what, peer, timeout_.count());
  }
  template <class T> std::vector<T> all_gather(const T& mine) const {
    const open_messages<N> open(net_);  // the others wait for this rank, also where it has no memory
    std::vector<T> all(static_cast<std::size_t>(size_));
    gather(bytes_of(mine), std::as_writable_bytes(std::span<T>(all)));
    return all;
  }
  void gather(std::span<const std::byte> mine, std::span<std::byte> all) const {
    const open_messages<N> open(net_);
    if (!net_.all_gather(mine, all, timeout_))
      give_up("rank %: not all of % ranks came within % ms", rank_, size_, timeout_.count());
  }

 private:
  template <class... Values> [[noreturn]] void give_up(const char* text, Values... values) const {
    heed::detail::problem_text problem;
    heed::detail::write(problem, text, values...);
    net_.abandon(problem.data());
    heed::detail::fail(problem.data());
  }

  N& net_;
  std::chrono::milliseconds timeout_;
  index_t rank_, size_;
};

// The numbers of a header and their names, in the same order on all ranks.
class agreement {
 public:
  // A plan and the call itself exchange other things.
  agreement(std::int64_t verb, bool plan_only) { same("verb", 2 * verb + (plan_only ? 1 : 0)); }

  // A number that must be equal on all ranks. Names are literals.
  void same(const char* name, std::int64_t value) { add(name, value, kind::whole); }
  void same_real(const char* name, double value) { add(name, std::bit_cast<std::int64_t>(value), kind::real); }
  void same_hash(const char* name, std::uint64_t value) { add(name, static_cast<std::int64_t>(value), kind::hash); }
  // A number of this rank; returns where it stands in the headers.
  std::size_t own(std::int64_t value) {
    add("", value, kind::own);
    return count_ - 1;
  }
  heed::detail::problem_text& problem() { return header_.problem; }

  // The headers of all ranks. problem: what is wrong, the same text on every rank; empty where all agree.
  template <network N> std::vector<call_header> gather(const session<N>& s, heed::detail::problem_text& problem) const {
    std::vector<call_header> all = s.all_gather(header_);
    problem[0] = 0;
    for (std::size_t r = 0; r < all.size() && problem[0] == 0; ++r)
      if (all[r].numbers[0] != all[0].numbers[0])
        heed::detail::write(problem, "rank % makes another call than rank 0", r);
    for (std::size_t r = 0; r < all.size() && problem[0] == 0; ++r)
      if (all[r].problem[0] != 0) heed::detail::write(problem, "rank %: %", r, all[r].problem.data());
    for (std::size_t r = 1; r < all.size(); ++r)
      for (std::size_t i = 1; i < count_ && problem[0] == 0; ++i) compare(problem, all[0], all[r], r, i);
    return all;
  }

 private:
  enum class kind { whole, real, hash, own };

  void add(const char* name, std::int64_t value, kind k) {
    HEED_ASSERT(count_ < header_.numbers.size());
    names_[count_] = name, kinds_[count_] = k, header_.numbers[count_++] = value;
  }
  void compare(heed::detail::problem_text& problem, const call_header& a, const call_header& b, std::size_t rank,
               std::size_t i) const {
    if (kinds_[i] == kind::own || a.numbers[i] == b.numbers[i]) return;
    if (kinds_[i] == kind::whole)
      heed::detail::write(problem, "rank % has % %, rank 0 has %", rank, names_[i], b.numbers[i], a.numbers[i]);
    else if (kinds_[i] == kind::real)
      heed::detail::write(problem, "rank % has % %, rank 0 has %", rank, names_[i], std::bit_cast<double>(b.numbers[i]),
                          std::bit_cast<double>(a.numbers[i]));
    else
      heed::detail::write(problem, "rank % has other % than rank 0", rank, names_[i]);
  }

  call_header header_;
  std::array<const char*, call_header::capacity> names_{};
  std::array<kind, call_header::capacity> kinds_{};
  std::size_t count_ = 0;
};

// Adds a number to a hash (FNV-1a over its bytes).
inline void add_to_hash(std::uint64_t& hash, double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (bits >> (8 * byte) & 0xffu)) * 0x100000001b3u;
}
inline constexpr std::uint64_t empty_hash = 0xcbf29ce484222325u;

// What a rank's own work throws. The rank goes on to pass messages, so that no other waits for it, and all ranks learn
// of it in finish().
class outcome {
 public:
  template <class F> void attempt(const F& f) {
    if (failed()) return;
#if defined(HEED_ON_ERROR)
    f();
#else
    try {
      f();
    } catch (const std::exception& e) {
      first_ = std::current_exception(), say(e.what());
    } catch (...) {
      first_ = std::current_exception(), say("something that is no std::exception was thrown");
    }
#endif
  }
  bool failed() const { return status_.problem[0] != 0; }

  // Throws on every rank where the work of any has failed: what it threw there, heed::error elsewhere.
  template <network N> void finish(const session<N>& s) const {
    const std::vector<call_status> all = s.all_gather(status_);
#if !defined(HEED_ON_ERROR)
    if (first_ != nullptr) std::rethrow_exception(first_);
#endif
    for (std::size_t r = 0; r < all.size(); ++r)
      if (all[r].problem[0] != 0) heed::detail::fail("rank %: %", r, all[r].problem.data());
  }

 private:
  void say(const char* text) {
    heed::detail::write(status_.problem, "%", *text != 0 ? text : "an error without a text");
  }

  call_status status_{};
#if !defined(HEED_ON_ERROR)
  std::exception_ptr first_;
#endif
};

// The scratch of a call: the caller's workspace, or its own.
class call_scratch {
 public:
  call_scratch() = default;
  ~call_scratch() {
    if (!kept_) delete[] owned_;
  }
  call_scratch(const call_scratch&) = delete;
  call_scratch& operator=(const call_scratch&) = delete;

  // Throws heed::error where the workspace is too small, std::bad_alloc where there is no memory.
  void open(std::span<std::byte> workspace, std::size_t needed) {
    heed::detail::problem_text problem{};
    if (!heed::detail::check_workspace(problem, workspace, needed)) heed::detail::fail(problem.data());
    if (workspace.empty() && needed > 0) owned_ = new std::byte[needed], workspace = {owned_, needed};
    memory_ = workspace;
  }
  std::span<std::byte> memory() const { return memory_; }

  // Does not free its own memory any more: a message that cannot be cancelled still uses it.
  void keep() { kept_ = true; }

 private:
  std::byte* owned_ = nullptr;
  std::span<std::byte> memory_;
  bool kept_ = false;
};

// A message in flight, or none. It ends before the scratch that it uses.
template <network N> class transfer {
 public:
  transfer(const session<N>& s, call_scratch& scratch) : session_(s), scratch_(scratch) {}
  ~transfer() {
    if (active_ && !session_.net().cancel(request_)) scratch_.keep();
  }
  transfer(const transfer&) = delete;
  transfer& operator=(const transfer&) = delete;

  // Empty messages are not sent: both sides know the size.
  void send(index_t to, int channel, std::span<const std::byte> bytes) {
    HEED_ASSERT(!active_);
    if (bytes.empty()) return;
    request_ = session_.net().start_send(to, channel, bytes), active_ = true, peer_ = to, what_ = "a message to";
  }
  void receive(index_t from, int channel, std::span<std::byte> bytes) {
    HEED_ASSERT(!active_);
    if (bytes.empty()) return;
    request_ = session_.net().start_receive(from, channel, bytes), active_ = true, peer_ = from;
    what_ = "a message from";
  }
  // Lets the network work on it.
  void poll() {
    if (active_ && session_.net().wait(request_, std::chrono::milliseconds(0))) active_ = false;
  }
  void wait() {
    if (!active_) return;
    session_.wait(request_, what_, peer_);
    active_ = false;
  }

 private:
  const session<N>& session_;
  call_scratch& scratch_;
  typename N::request request_{};
  bool active_ = false;
  index_t peer_ = 0;
  const char* what_ = "";
};

}  // namespace HEED_ISA
}  // namespace heed::distributed::detail
