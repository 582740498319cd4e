// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What backward of softmax attention is asked: the call, the gradient that comes in, and those that are wanted.
//
//   p_ij = exp(s_ij - lse_i),  delta_i = dout_i . o_i - dlse_i,  ds_ij = p_ij (dout_i . v_j - delta_i)
//   dv_j = sum_i p_ij dout_i,  dq_i = scale sum_j ds_ij k_j,  dk_j = scale sum_i ds_ij q_i
//
// with ds multiplied by the slopes of the score function and the soft-cap on its way to q . k. Dao (arXiv 2307.08691).

#include <algorithm>
#include <array>
#include <cmath>

#include "heed/pairwise/checks.hpp"
#include "heed/pairwise/problem.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// The tensors that backward reads, with the formats of their rows
template <class T> struct gradient_rows : tile::call_rows<T> {
  heed::detail::input_tensor dout;
  const tile::row_format<T>* dout_format;
};
template <class Q, class K, class V, class O, class D>
HEED_INLINE gradient_rows<acc_of<Q>> rows_of_gradients(const Q& q, const K& k, const V& v, const O& o, const D& dout) {
  using heed::detail::value_t;
  return {tile::rows_of_call(q, k, v, o), heed::detail::input_tensor(tensor_view<const value_t<D>, 4>(dout)),
          &tile::row_format_of<acc_of<Q>, value_t<D>>};
}

// Whether pairs of a head share a number of dbias, as along the diagonals of a bias by distance: one task sums them.
template <class T> bool pairs_share_numbers(const tensor_view<T, 4>& dbias) {
  if (dbias.extent(2) <= 1) return false;
  const index_t row = std::abs(dbias.stride(2)), key = std::abs(dbias.stride(3));
  return row <= key * (dbias.extent(3) - 1) && key <= row * (dbias.extent(2) - 1);
}

template <class T> struct gradient_problem : attention<T> {
  template <class Options>
  HEED_INLINE gradient_problem(const Options& opt, const gradient_rows<T>& x)
      : attention<T>(opt, x), dout(x.dout), dout_format(x.dout_format), sink_logits(opt.sink_logits) {
    q_scale = opt.scale ? finite_factor<T>(*opt.scale) : static_cast<T>(1 / std::sqrt(static_cast<double>(this->d)));
  }

  bool wants_keys() const { return dk.data() != nullptr || dv.data() != nullptr; }
  bool wants_bias() const { return dbias.data() != nullptr; }
  // A bias with a number per key; the others are sums over the rows.
  bool wants_pair_bias() const { return wants_bias() && dbias.extent(3) > 1; }
  bool wants_row_bias() const { return wants_bias() && dbias.extent(3) <= 1; }
  bool wants_slopes() const { return dalibi_slopes.data() != nullptr; }
  bool overlaps_bias() const { return wants_pair_bias() && pairs_share_numbers(dbias); }
  // What goes key by key, and what goes row by row
  bool has_key_pass() const { return wants_keys() || wants_pair_bias(); }
  bool has_row_pass() const { return dq.data() != nullptr || wants_row_bias() || wants_slopes(); }
  bool wants_score_gradients() const {
    return dq.data() != nullptr || dk.data() != nullptr || wants_bias() || wants_slopes();
  }

  index_t row_number(const sequence& s, index_t head, index_t i) const {
    return (s.batch * this->heads + head) * this->q.extent(2) + s.first_query + i;
  }
  index_t all_rows() const { return this->q.extent(0) * this->heads * this->q.extent(2); }

  heed::detail::input_tensor dout;
  const tile::row_format<T>* dout_format;
  heed::detail::per_head_view sink_logits;
  T q_scale;
  tensor_view<T, 4> dq, dk, dv, dbias;
  tensor_view<T, 1> dsink_logits, dalibi_slopes;
  tensor_view<const T, 3> dlse;
  // Of mixture of head, where o and dout belong to gate times the head: rows whose gate is 0 take no part.
  tensor_view<const T, 3> gates;
  tensor_view<T, 3> dgates;
};

// The same without its element types
struct gradient_shapes : attention_shapes {
  template <class T>
  explicit gradient_shapes(const gradient_problem<T>& p)
      : attention_shapes(p),
        dout("dout", p.dout),
        dq("dq", p.dq),
        dk("dk", p.dk),
        dv("dv", p.dv),
        dbias("dbias", p.dbias),
        dsink_logits("dsink_logits", p.dsink_logits),
        dalibi_slopes("dalibi_slopes", p.dalibi_slopes),
        dlse("dlse", p.dlse),
        sinks("sink_logits", p.sink_logits),
        slopes_given("alibi_slopes", p.scores.slopes),
        has_sinks(p.sink_logits.set()),
        lacks_slope(p.scores.has_function() && p.scores.function->map_derivative == nullptr) {
    o_is_read = true;
  }

  heed::detail::named_tensor dout, dq, dk, dv, dbias, dsink_logits, dalibi_slopes, dlse, sinks, slopes_given;
  bool has_sinks, lacks_slope;
};

// Checks a gradient with one number per head, which is wanted of an option that is set.
inline void check_head_gradient(heed::detail::checker& check, const heed::detail::named_tensor& x, bool set,
                                const char* option, const gradient_shapes& p) {
  if (x.data == nullptr) return;
  check.require(set, "% is given, % is not", x.name, option);
  check.tensor(x, false), check.written(x);
  check.require(x.extent(0) == p.heads, "% has % entries, o has % heads", x.name, x.extent(0), p.heads);
}

// Whether heads or batches of x may share numbers: with the axes in the order of their strides, one does not step over
// what those before it span. Rows and keys may share numbers with each other, as along diagonals.
inline bool heads_share_numbers(const heed::detail::named_tensor& x) {
  const auto step = [&](int axis) { return std::abs(static_cast<double>(x.stride(axis))); };
  const auto span = [&](int axis) { return step(axis) * static_cast<double>(x.extent(axis) - 1); };
  const auto apart = [&](std::array<int, 4> axes, std::size_t first, double taken) {
    std::sort(axes.begin() + static_cast<std::ptrdiff_t>(first), axes.end(),
              [&](int a, int b) { return step(a) < step(b); });
    for (std::size_t i = first; i < 4; ++i) {
      if (x.extent(axes[i]) <= 1) continue;
      if (step(axes[i]) <= taken) return false;
      taken += span(axes[i]);
    }
    return true;
  };
  if (x.empty()) return false;
  return !apart({0, 1, 2, 3}, 0, 0) && !apart({2, 3, 0, 1}, 2, span(2) + span(3));
}

// Checks dbias, if it is asked for.
inline void check_bias_gradient(heed::detail::checker& check, const heed::detail::named_tensor& dbias,
                                const heed::detail::named_tensor& bias) {
  if (dbias.data == nullptr) return;
  if (!check.require(bias.data != nullptr, "dbias is given, bias is not")) return;
  heed::detail::check_gradient(check, dbias, bias, false);
  if (check.ok())
    check.require(!heads_share_numbers(dbias),
                  "dbias has strides % for batches and % for heads, with which they share numbers: only pairs of one "
                  "head may",
                  dbias.stride(0), dbias.stride(1));
}

// Checks what backward has beside the call: shapes, in O(1); reads no tensor data.
inline void check_gradients(heed::detail::checker& check, const gradient_shapes& p) {
  check.tensor(p.dout, true);
  for (int axis = 0; axis < 4; ++axis)
    check.require(p.dout.extent(axis) == p.o.extent(axis), "dout has extent % on axis %, o has %", p.dout.extent(axis),
                  axis, p.o.extent(axis));
  const double all_rows =
      static_cast<double>(p.q.extent(0)) * static_cast<double>(p.heads) * static_cast<double>(p.q.extent(2));
  check.require(all_rows < 1e17, "q has % rows in all heads, must have less than 1e17", all_rows);
  check.require(!p.lacks_slope, "score has no derivative, backward needs it: score_function(f, df_ds)");
  if (p.dlse.data != nullptr) {
    const index_t rows[] = {p.o.extent(0), p.o.extent(1), p.o.extent(2)};
    check.tensor(p.dlse, false), check.extents(p.dlse, rows, false);
  }
  heed::detail::check_gradient(check, p.dq, p.q, true);
  heed::detail::check_gradient(check, p.dk, p.k, true);
  heed::detail::check_gradient(check, p.dv, p.v, true);
  check_bias_gradient(check, p.dbias, p.bias);
  check_head_gradient(check, p.dsink_logits, p.has_sinks, "sink_logits", p);
  check_head_gradient(check, p.dalibi_slopes, p.slopes.set(), "alibi_slopes", p);
  heed::detail::check_gradients_apart(
      check, {&p.dq, &p.dk, &p.dv, &p.dbias, &p.dsink_logits, &p.dalibi_slopes},
      {&p.q, &p.k, &p.v, &p.o, &p.dout, &p.lse, &p.dlse, &p.bias, &p.sinks, &p.slopes_given});
}

template <class T> void check_softmax_gradients(heed::detail::checker& check, const gradient_problem<T>& p) {
  const gradient_shapes shapes(p);
  check_attention(check, shapes);
  if (check.ok()) check_per_head(check, "sink_logits", p.sink_logits, shapes, -std::numeric_limits<double>::infinity());
  if (check.ok()) check_gradients(check, shapes);
}

}  // namespace HEED_ISA
}  // namespace heed::pairwise
