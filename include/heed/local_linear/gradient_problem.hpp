// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What backward is asked: the call of forward, the gradient that comes in, and those that are wanted.

#include "heed/local_linear/problem.hpp"
#include "heed/pairwise/gradient_problem.hpp"

namespace heed::local_linear::detail {
inline namespace HEED_ISA {

// Backward has no o: what the engine is shown as o has its shape, and no memory of anyone's.
template <class T> HEED_INLINE tensor_view<T, 4> shape_of_output(const std::array<index_t, 4>& extents) {
  static constexpr T nothing{};
  return {const_cast<T*>(&nothing), extents, {1, 1, 1, 1}};
}
template <class Q, class K, class V, class D>
HEED_INLINE pairwise::gradient_rows<acc_of<Q>> rows_of_backward(const Q& q, const K& k, const V& v, const D& dout) {
  using heed::detail::value_t;
  const tensor_view<const value_t<Q>, 4> q4(q);
  const tensor_view<const value_t<K>, 4> k4(k);
  const tensor_view<const value_t<V>, 4> v4(v);
  const index_t heads = q4.extent(1) == 0 ? 0 : std::max(q4.extent(1), k4.extent(1));
  const std::array<index_t, 4> extents{q4.extent(0), heads, q4.extent(2), v4.extent(3)};
  return pairwise::rows_of_gradients(q, k, v, shape_of_output<acc_of<Q>>(extents), dout);
}

template <class T> struct gradient_problem : problem<T> {
  HEED_INLINE gradient_problem(const options<T>& given_options, const gradients<T>& wanted,
                               const pairwise::gradient_rows<T>& x)
      : problem<T>(given_options, x),
        dout(x.dout),
        dout_format(x.dout_format),
        dq(heed::detail::with_canonical_strides(wanted.dq)),
        dk(heed::detail::with_canonical_strides(wanted.dk)),
        dv(heed::detail::with_canonical_strides(wanted.dv)),
        dbias(heed::detail::with_canonical_strides(wanted.dbias)),
        dridge(wanted.dridge),
        scale_of_products(given_options.scale ? pairwise::finite_factor<T>(*given_options.scale)
                                              : static_cast<T>(1 / std::sqrt(static_cast<double>(this->d)))) {}

  bool wants_queries() const { return dq.data() != nullptr; }
  bool wants_keys() const { return dk.data() != nullptr; }
  bool wants_values() const { return dv.data() != nullptr; }
  // A bias with a number per key; the others are sums over the rows.
  bool wants_pair_bias() const { return dbias.data() != nullptr && dbias.extent(3) > 1; }
  bool wants_row_bias() const { return dbias.data() != nullptr && dbias.extent(3) <= 1; }
  bool wants_ridge() const { return dridge.data() != nullptr; }
  bool wants_scores() const { return wants_queries() || wants_keys() || dbias.data() != nullptr; }  // ds
  bool wants_adjoint() const { return wants_scores() || wants_ridge(); }  // all but dv: the second solve
  bool has_key_pass() const { return wants_keys() || wants_values() || wants_pair_bias(); }
  // Whether some function is between q . k and the score
  bool has_slopes() const { return this->scores.has_cap() || this->scores.has_function(); }

  bool knows_slope() const { return this->opt.slope.data() != nullptr; }
  bool knows_mean() const { return this->opt.mean_key.data() != nullptr; }

  // The rows of all heads of o, one after the other: row r of those that share a key/value head
  index_t row_number(const pairwise::sequence& s, index_t kv_head, index_t r) const {
    return (s.batch * this->q.extent(2) + s.first_query) * this->heads + kv_head * this->rows(s) + r;
  }
  index_t all_rows() const { return this->q.extent(0) * this->heads * this->q.extent(2); }

  heed::detail::input_tensor dout;
  const tile::row_format<T>* dout_format;
  tensor_view<T, 4> dq, dk, dv, dbias;
  tensor_view<T, 1> dridge;
  T scale_of_products;
};

template <class T> void check_gradient_call(heed::detail::checker& check, const gradient_problem<T>& p) {
  using heed::detail::named_tensor;
  const named_tensor q("q", p.q), k("k", p.k), v("v", p.v), dout("dout", p.dout), lse("lse", p.lse),
      slope("slope", p.opt.slope), mean_key("mean_key", p.opt.mean_key), bias("bias", p.scores.bias),
      ridge("ridge", p.ridge), dq("dq", p.dq), dk("dk", p.dk), dv("dv", p.dv), dbias("dbias", p.dbias),
      dridge("dridge", p.dridge);
  check_call<T>(check, p);
  if (!check.ok()) return;
  check.tensor(dout, true);
  check.equal(dout, q, 0, "batch"), check.equal(dout, q, 2, "queries"), check.equal(dout, v, 3, "head dim");
  check.require(dout.extent(1) == p.heads, "dout has % heads, needs % (the larger of q's and k's)", dout.extent(1),
                p.heads);
  check.require(!p.scores.has_function() || p.scores.function->map_derivative != nullptr,
                "score has no derivative, backward needs it: score_function(f, df_ds)");
  heed::detail::check_gradient(check, dq, q, true), heed::detail::check_gradient(check, dk, k, true);
  heed::detail::check_gradient(check, dv, v, true);
  pairwise::check_bias_gradient(check, dbias, bias);
  if (dridge.data != nullptr) {
    check.tensor(dridge, false), check.written(dridge);
    check.require(dridge.extent(0) == p.heads, "dridge has % entries, o has % heads", dridge.extent(0), p.heads);
  }
  heed::detail::check_gradients_apart(check, {&dq, &dk, &dv, &dbias, &dridge},
                                      {&q, &k, &v, &dout, &lse, &slope, &mean_key, &bias, &ridge});
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear::detail
