// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The rows that have work: (query, head) pairs whose gate is not 0, of the heads that share a key/value head. They are
// taken query by query, in each query head by head, so that a tile of them spans few places; with all gates on they are
// softmax's tiles. No list is kept: a worker goes over the gates backwards, from the last tile of a head to the first,
// and on its way clears the rows that have none.

#include <algorithm>
#include <limits>

#include "heed/mixture_of_head/options.hpp"
#include "heed/pairwise/tasks.hpp"
#include "heed/simd/stream.hpp"

namespace heed::mixture_of_head::detail {
inline namespace HEED_ISA {

template <class T> struct problem : pairwise::softmax_problem<T> {
  template <class Options>
  HEED_INLINE problem(const tensor_view<const T, 3>& each, const Options& opt, const pairwise::softmax_rows<T>& x)
      : pairwise::softmax_problem<T>(opt, x), gates(heed::detail::with_canonical_strides(each)) {}

  HEED_INLINE const T* gate(const pairwise::sequence& s, index_t head, index_t query) const {
    return &gates(s.batch, head, s.first_query + query);
  }
  // (sequence, key/value head) pairs
  index_t pairs() const { return this->heads == 0 ? 0 : this->sequences() * this->kv_heads; }

  tensor_view<const T, 3> gates;
};

template <class T> void check_gates(heed::detail::checker& check, const problem<T>& p) {
  const heed::detail::named_tensor q("q", p.q), gates("gates", p.gates);
  check.tensor(gates, false);
  check.equal(gates, q, 0, "batch"), check.equal(gates, q, 1, "heads"), check.equal(gates, q, 2, "queries");
  check.distinct({"o", p.o}, gates), check.distinct({"lse", p.lse}, gates);
}
template <class T> void check_heads(heed::detail::checker& check, const problem<T>& p) {
  check.require(p.query_heads == 0 || (p.kv_heads > 0 && p.query_heads % p.kv_heads == 0),
                "q has % heads, k has %, q's must be a multiple of k's", p.query_heads, p.kv_heads);
}

using pairwise::is_active;

template <class T> index_t count_active(const problem<T>& p, const pairwise::sequence& s, index_t kv_head) {
  index_t count = 0;
  if (s.queries == 0) return count;
  const index_t step = p.gates.stride(2);
  for (index_t head = kv_head * p.group; head < (kv_head + 1) * p.group; ++head) {
    const T* gate = p.gate(s, head, 0);
    for (index_t i = s.queries; i > 0; --i, gate += step) count += is_active(*gate) ? 1 : 0;
  }
  return count;
}

// Tasks of so many active rows of `rows`: tiles, few rows at once, or rows to clear
template <class T> index_t tasks_of(const problem<T>& p, index_t active, index_t rows) {
  return active > 0 ? pairwise::row_cut<T>(p, active).tasks() : rows > 0 ? 1 : 0;
}

// Finds the rows of task after task, in ascending order of tasks.
template <class T> class row_finder {
 public:
  // active: of each (sequence, key/value head)
  row_finder(const problem<T>& p, const index_t* active)
      : p_(p), active_(active), far_(elements(p.o) * static_cast<double>(p.o.element_bytes()) > 4 << 20) {}

  void find(index_t task) {
    while (task >= end_) enter(pair_ + 1);
    const index_t number = end_ - 1 - task;  // the last tile of a head comes first
    const index_t first = cut().first(number);
    rows_.count = cut().count(number);
    while (left_ > first + rows_.count) step();  // tiles of other workers
    while (left_ > first || (number == 0 && !at_begin())) take_or_clear(first);
    if (far_) simd::stream_end();
  }

  const pairwise::sequence& sequence() const { return sequence_; }
  index_t kv_head() const { return pair_ % p_.kv_heads; }
  const pairwise::row_tile& rows() const { return rows_; }           // none: there was nothing but rows to clear
  const T* gates() const { return gates_.data(); }                   // of rows()
  pairwise::row_cut<T> cut() const { return {p_, active_[pair_]}; }  // of the pair's active rows

 private:
  static double elements(const heed::detail::output_tensor& x) {
    double count = 1;
    for (int axis = 0; axis < 4; ++axis) count *= static_cast<double>(x.extent(axis));
    return count;
  }

  void enter(index_t pair) {
    pair_ = pair;
    sequence_ = p_.sequence_at(pair / p_.kv_heads);
    left_ = active_[pair];
    end_ += tasks_of(p_, left_, p_.rows(sequence_));
    query_ = sequence_.queries, head_ = 0;
  }

  // One row back; its gate
  HEED_INLINE T step() {
    if (head_ == 0) head_ = p_.group, --query_;
    --head_;
    const T gate = *p_.gate(sequence_, kv_head() * p_.group + head_, query_);
    if (is_active(gate)) --left_;
    return gate;
  }
  bool at_begin() const { return query_ == 0 && head_ == 0; }

  // Rows of q here and there wait for memory, each of them: 1 % at f25
  HEED_INLINE void prefetch(const std::byte* q) const {
    for (index_t c = 0; c < p_.d * p_.q.element_bytes(); c += 64) simd::prefetch(q, c);
  }

  HEED_INLINE void take_or_clear(index_t first) {
    const T gate = step();
    const index_t head = kv_head() * p_.group + head_;
    if (is_active(gate)) {
      rows_.row[left_ - first] = {head, query_}, gates_[left_ - first] = gate;
      prefetch(p_.query(sequence_, head, query_));
    } else {
      std::byte* const o = p_.output(sequence_, head, query_);
      const index_t bytes = p_.e * p_.o.element_bytes();
      far_ ? simd::stream_zeros(o, bytes) : static_cast<void>(std::fill(o, o + bytes, std::byte{0}));
      if (p_.lse.data() != nullptr) *p_.lse_at(sequence_, head, query_) = -std::numeric_limits<T>::infinity();
    }
  }

  const problem<T>& p_;
  const index_t* active_;
  bool far_;                     // o is longer than the caches: bench/mixture_of_head_bench.cpp, 2 % at f25
  index_t pair_ = -1, end_ = 0;  // end_: of the pair's tasks
  pairwise::sequence sequence_;
  index_t query_ = 0, head_ = 0;  // where the last step led; head_: within the group
  index_t left_ = 0;              // active rows before it
  pairwise::row_tile rows_;
  tile::lane_array<T, pairwise::lane_capacity> gates_;
};

}  // namespace HEED_ISA
}  // namespace heed::mixture_of_head::detail
