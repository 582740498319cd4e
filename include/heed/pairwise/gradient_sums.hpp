// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Before and after the passes of backward: delta of every row, zeros where nothing will be added, and the gradients
// that are sums over rows.

#include <cmath>

#include "heed/pairwise/gradient_tile.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// delta = dout . o - dlse, and zeros in dq, the sums of rows and dbias. Where the kernel has gates: dgates too.
template <class T> class gradient_start {
 public:
  static constexpr index_t w = simd::width<T>, rows_per_task = 256;

  gradient_start(const gradient_problem<T>& p, const row_sums<T>& sums, heed::detail::arena& memory)
      : p_(p),
        sums_(sums),
        o_(memory.take<T>(tile::whole_vectors<T>(p.e))),
        dout_(memory.take<T>(tile::whole_vectors<T>(p.e))) {}

  static index_t tasks(const gradient_problem<T>& p) { return row_tasks(p) + bias_tasks(p) + 1; }

  void run(index_t task) const {
    const index_t rows = row_tasks(p_), per_head = tasks_of_head(p_);
    if (task < rows) {
      const index_t pair = task / per_head, first = task % per_head * rows_per_task, n = p_.q.extent(2);
      for (index_t i = first; i < std::min(n, first + rows_per_task); ++i)
        start_row(pair / p_.heads, pair % p_.heads, i);
    } else if (task < rows + bias_tasks(p_)) {
      clear_bias(task - rows);
    } else if (p_.packed() || p_.heads == 0) {
      clear_keys(p_.dk), clear_keys(p_.dv);
    }
  }

 private:
  static index_t tasks_of_head(const gradient_problem<T>& p) {
    return (p.q.extent(2) + rows_per_task - 1) / rows_per_task;
  }
  static index_t row_tasks(const gradient_problem<T>& p) { return p.q.extent(0) * p.heads * tasks_of_head(p); }
  static index_t bias_tasks(const gradient_problem<T>& p) {
    return p.wants_pair_bias() ? p.dbias.extent(0) * p.dbias.extent(1) : 0;
  }

  void start_row(index_t batch, index_t head, index_t i) const {
    const index_t row = (batch * p_.heads + head) * p_.q.extent(2) + i;
    if (p_.dq.data() != nullptr && head % p_.repeat == 0) {
      T* const dq = &p_.dq(batch, head / p_.repeat, i, 0);
      std::fill(dq, dq + p_.d, T(0));
    }
    if (sums_.distance != nullptr) sums_.distance[row] = T(0);
    if (sums_.bias != nullptr) sums_.bias[row] = T(0);
    const bool gated = p_.gates.data() != nullptr;
    const bool active = !gated || is_active(p_.gates(batch, head, i));
    T delta(0);
    if (active) {
      delta = dot(batch, head, i);
      if (gated && p_.dgates.data() != nullptr)
        p_.dgates(batch, head, i) = heed::detail::equals(delta, T(0)) ? T(0) : delta / p_.gates(batch, head, i);
      if (p_.dlse.data() != nullptr) delta -= p_.dlse(batch, head, i);
    } else if (p_.dgates.data() != nullptr) {
      p_.dgates(batch, head, i) = T(0);
    }
    sums_.delta[row] = delta;
  }

  // o = 0 counts as 0 whatever dout is: the row may see no key, and its dout may hold anything.
  T dot(index_t batch, index_t head, index_t i) const {
    p_.o_format->read(p_.o.row(batch, head, i), 0, 1, p_.e, o_, 0);
    p_.dout_format->read(p_.dout.row(batch, head, i), 0, 1, p_.e, dout_, 0);
    const simd::batch<T> zero(T(0));
    simd::batch<T> sum = zero;
    for (index_t e = 0; e < p_.e; e += w) {
      const simd::batch<T> o = simd::load_partial(o_ + e, std::min(w, p_.e - e));
      const simd::batch<T> x = simd::load_partial(dout_ + e, std::min(w, p_.e - e));
      sum = sum + simd::select<T>(o == zero, zero, o * x);
    }
    T lanes[std::size_t{w}], total(0);
    simd::store(&lanes[0], sum);
    for (T x : lanes) total += x;
    return total;
  }

  void clear_bias(index_t pair) const {
    const index_t batch = pair / p_.dbias.extent(1), head = pair % p_.dbias.extent(1);
    for (index_t i = 0; i < p_.dbias.extent(2); ++i)
      for (index_t j = 0; j < p_.dbias.extent(3); ++j) p_.dbias(batch, head, i, j) = T(0);
  }
  // Rows of keys behind the last packed sequence; without query heads, all of them
  void clear_keys(const tensor_view<T, 4>& dx) const {
    if (dx.data() == nullptr) return;
    for (index_t batch = 0; batch < dx.extent(0); ++batch)
      for (index_t head = 0; head < dx.extent(1); ++head)
        for (index_t j = p_.heads == 0 ? 0 : p_.mask.key_offsets.back(); j < dx.extent(2); ++j)
          std::fill(&dx(batch, head, j, 0), &dx(batch, head, j, 0) + dx.extent(3), T(0));
  }

  const gradient_problem<T>& p_;
  row_sums<T> sums_;
  T *o_, *dout_;
};

// Gradients that are sums over rows, after the passes: a task per head and kind, rows in ascending order, in double
template <class T> class gradient_end {
 public:
  gradient_end(const gradient_problem<T>& p, const row_sums<T>& sums) : p_(p), sums_(sums) {}

  static index_t tasks(const gradient_problem<T>& p) {
    return (p.dsink_logits.data() != nullptr ? p.heads : 0) + (p.wants_slopes() ? p.heads : 0) +
           (p.wants_row_bias() ? p.dbias.extent(0) * p.dbias.extent(1) : 0);
  }

  void run(index_t task) const {
    if (p_.dsink_logits.data() != nullptr) {
      if (task < p_.heads) return static_cast<void>(p_.dsink_logits(task) = static_cast<T>(sink(task)));
      task -= p_.heads;
    }
    if (p_.wants_slopes()) {
      if (task < p_.heads) return static_cast<void>(p_.dalibi_slopes(task) = static_cast<T>(slope(task)));
      task -= p_.heads;
    }
    bias(task / p_.dbias.extent(1), task % p_.dbias.extent(1));
  }

 private:
  // f(batch, row of the query, its number) for the rows of a head
  template <class F> void each_row(index_t head, F f) const {
    const index_t n = p_.q.extent(2);
    for (index_t b = 0; b < p_.q.extent(0); ++b)
      for (index_t i = 0; i < n; ++i) f(b, i, (b * p_.heads + head) * n + i);
  }

  // - sum of exp(sink - lse) delta
  double sink(index_t head) const {
    const double logit = p_.sink_logits.at(head);
    double sum = 0;
    if (std::isinf(logit)) return sum;
    each_row(head, [&](index_t b, index_t i, index_t row) {
      if (p_.gates.data() != nullptr && !is_active(p_.gates(b, head, i))) return;
      const T lse = sums_.lse != nullptr ? sums_.lse[row] : p_.lse(b, head, i);
      sum -= std::exp(logit - static_cast<double>(lse)) * static_cast<double>(sums_.delta[row]);
    });
    return sum;
  }
  double slope(index_t head) const {
    double sum = 0;
    each_row(head, [&](index_t, index_t, index_t row) { sum -= static_cast<double>(sums_.distance[row]); });
    return sum;
  }
  // dbias with one number for all keys
  void bias(index_t batch, index_t head) const {
    const tensor_view<T, 4>& out = p_.dbias;
    const bool all_batches = out.extent(0) == 1, all_heads = out.extent(1) == 1, all_rows = out.extent(2) == 1;
    const index_t n = p_.q.extent(2);
    if (out.extent(3) == 0) return;
    for (index_t at = 0; at < out.extent(2); ++at) {
      double sum = 0;
      for (index_t b = all_batches ? 0 : batch; b < (all_batches ? p_.q.extent(0) : batch + 1); ++b)
        for (index_t h = all_heads ? 0 : head; h < (all_heads ? p_.heads : head + 1); ++h)
          for (index_t i = all_rows ? 0 : at; i < (all_rows ? n : at + 1); ++i)
            sum += static_cast<double>(sums_.bias[(b * p_.heads + h) * n + i]);
      out(batch, head, at, 0) = static_cast<T>(sum);
    }
  }

  const gradient_problem<T>& p_;
  row_sums<T> sums_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
