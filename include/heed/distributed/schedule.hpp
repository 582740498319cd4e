// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Which rank holds which tokens, what sees what, and how far a block of keys travels. Every rank derives the same
// tables from the headers of the agreement.

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/distributed/options.hpp"

namespace heed::distributed {

// What a rank does in a call of the ring, forward. pairs: visible pairs of one batch entry and head.
struct ring_counts {
  double pairs = 0;                 // FLOPs: 2 (D + E) pairs B max(H, Hk), backward 2 (3 D + 2 E)
  index_t keys_sent = 0;            // tokens of keys; bytes: B Hk (D + E) times the size of an element, for each
  index_t messages = 0, calls = 0;  // calls of the kernel
};

namespace detail {

// Tokens that lie together on a rank: places place to place + count - 1 on the key axis, rows row to row + count - 1.
struct chunk {
  index_t place = 0, row = 0, count = 0;
};

// What a query at a place sees: keys from place - left to place + right. Large: no limit.
struct sight {
  static constexpr index_t no_limit = index_t{1} << 40;
  index_t left = no_limit, right = no_limit;
};

inline namespace HEED_ISA {

inline sight sight_of(const heed::detail::mask_parts& m) {
  sight s;
  if (m.has(m.window) && m.left >= 0) s.left = m.left;
  if (m.has(m.window) && m.right >= 0) s.right = m.right;
  if (m.has(m.causal)) s.right = 0;
  return s;
}

// Whether any query of q sees any key of k
inline bool sees(const sight& s, const chunk& q, const chunk& k) {
  return q.count > 0 && k.count > 0 && k.place <= q.place + q.count - 1 + s.right &&
         k.place + k.count - 1 >= q.place - s.left;
}

// The number of pairs of which the query sees the key
inline double visible_pairs(const sight& s, const chunk& q, const chunk& k) {
  double pairs = 0;
  if (!sees(s, q, k)) return pairs;
  if (k.place >= q.place + q.count - 1 - s.left && k.place + k.count - 1 <= q.place + s.right)  // all of them
    return static_cast<double>(q.count) * static_cast<double>(k.count);
  for (index_t p = q.place; p < q.place + q.count; ++p)
    pairs += static_cast<double>(
        std::max<index_t>(0, std::min(k.place + k.count - 1, p + s.right) - std::max(k.place, p - s.left) + 1));
  return pairs;
}

// The chunks of queries and of keys of all ranks.
class schedule {
 public:
  using two = std::array<chunk, 2>;

  // What a rank says of itself
  struct tokens {
    index_t queries = 0, keys = 0, first_queries = 0, first_keys = 0;  // first: of its first chunk
  };

  schedule(cut how, bool from_top_left, const sight& visible, const std::vector<tokens>& ranks)
      : sight_(visible), queries_(ranks.size()), keys_(ranks.size()) {
    const std::size_t n = ranks.size();
    index_t query = 0, key = 0;
    const auto place = [&](std::size_t rank, std::size_t which, index_t query_count, index_t key_count) {
      const auto& t = ranks[rank];
      queries_[rank][which] = {query, which == 0 ? 0 : t.first_queries, query_count};
      keys_[rank][which] = {key, which == 0 ? 0 : t.first_keys, key_count};
      query += query_count, key += key_count;
    };
    if (how == cut::contiguous) {
      for (std::size_t r = 0; r < n; ++r) place(r, 0, ranks[r].queries, ranks[r].keys);
    } else {
      for (std::size_t r = 0; r < n; ++r) place(r, 0, ranks[r].first_queries, ranks[r].first_keys);
      for (std::size_t r = n; r-- > 0;)
        place(r, 1, ranks[r].queries - ranks[r].first_queries, ranks[r].keys - ranks[r].first_keys);
    }
    all_queries_ = query, all_keys_ = key;
    for (two& both : queries_)  // bottom_right: query i is at place i + M - N
      for (chunk& c : both) c.place += from_top_left ? 0 : key - query;
    for (index_t r = 0; r < this->ranks(); ++r) reach_.push_back(find_reach(r));
  }

  index_t ranks() const { return static_cast<index_t>(keys_.size()); }
  index_t all_queries() const { return all_queries_; }
  index_t all_keys() const { return all_keys_; }
  const two& queries_of(index_t rank) const { return queries_[static_cast<std::size_t>(rank)]; }
  const two& keys_of(index_t rank) const { return keys_[static_cast<std::size_t>(rank)]; }
  index_t key_count(index_t rank) const { return keys_of(rank)[0].count + keys_of(rank)[1].count; }
  index_t most_keys() const {
    index_t most = 0;
    for (index_t r = 0; r < ranks(); ++r) most = std::max(most, key_count(r));
    return most;
  }

  // f(chunk of queries, chunk of keys) for what the queries of a rank see of the keys of another, in a fixed order
  template <class F> void each_piece(index_t rank, index_t owner, const F& f) const {
    for (const chunk& k : keys_of(owner))
      for (const chunk& q : queries_of(rank))
        if (sees(sight_, q, k)) f(q, k);
  }
  bool meets(index_t rank, index_t owner) const {
    bool any = false;
    each_piece(rank, owner, [&](const chunk&, const chunk&) { any = true; });
    return any;
  }

  // How many ranks on the keys of a rank have to go: to the last that sees any of them. 0: nowhere.
  index_t reach(index_t owner) const { return reach_[static_cast<std::size_t>(owner)]; }

  ring_counts counts_of(index_t rank) const {
    ring_counts counts;
    for (index_t step = 0; step < ranks(); ++step) {
      const index_t owner = (rank + ranks() - step) % ranks();
      each_piece(rank, owner,
                 [&](const chunk& q, const chunk& k) { counts.pairs += visible_pairs(sight_, q, k), ++counts.calls; });
      if (step < reach(owner) && key_count(owner) > 0) counts.keys_sent += key_count(owner), ++counts.messages;
    }
    return counts;
  }

 private:
  index_t find_reach(index_t owner) const {
    for (index_t steps = ranks() - 1; steps > 0; --steps)
      if (meets((owner + steps) % ranks(), owner)) return steps;
    return 0;
  }

  sight sight_;
  std::vector<two> queries_, keys_;
  std::vector<index_t> reach_;
  index_t all_queries_ = 0, all_keys_ = 0;
};

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Counts what a rank computes and sends in softmax::forward over a sequence of as many queries as keys that is cut by
// tokens_of. mask: none, causal and window.
inline ring_counts count_ring(cut how, index_t all_tokens, index_t ranks, index_t rank, const mask& mask = {}) {
  std::vector<detail::schedule::tokens> each;
  for (index_t r = 0; r < ranks; ++r) {
    const auto parts = tokens_of(how, all_tokens, ranks, r);
    const index_t count = parts[0].count + parts[1].count;
    each.push_back({count, count, parts[0].count, parts[0].count});
  }
  static_cast<void>(tokens_of(how, all_tokens, ranks, rank));  // refuses a rank that is not there
  return detail::schedule(how, true, detail::sight_of(heed::detail::parts(mask)), each).counts_of(rank);
}

}  // namespace HEED_ISA
}  // namespace heed::distributed
