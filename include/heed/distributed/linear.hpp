// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/distributed/softmax_ring.hpp"
#include "heed/distributed/states.hpp"
#include "heed/linear/backward.hpp"
#include "heed/linear/forward.hpp"

namespace heed::distributed {
namespace detail {
inline namespace HEED_ISA {

// What forward and backward of linear attention have in common. q, k, v: views of this rank's tokens.
template <class QT, class KT> class linear_over_ranks {
 protected:
  using T = heed::detail::acc_t<QT>;

 public:
  linear_over_ranks(const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                    const tensor_view<const KT, 4>& v, const heed::linear::options<T>& opt)
      : q_(q), k_(k), v_(v), opt_(opt) {}

  void check(heed::detail::checker& check) const {
    const heed::detail::mask_parts& m = heed::detail::parts(opt_.mask);
    const heed::detail::alignment_parts& align = heed::detail::parts(opt_.align);
    check.require((m.present & ~m.causal) == 0, "the mask of linear attention over ranks is none or causal");
    check.require(dense() || q_.extent(2) == k_.extent(2),
                  "causal over ranks: q has % tokens, k has %, must be as many", q_.extent(2), k_.extent(2));
    check.require(!align.has_first && !align.end_of_lengths, "align is bottom_right or top_left over ranks");
  }
  void describe(agreement& a) const {
    const auto& map = heed::detail::parts(opt_.feature);
    a.same("a q of type", type_code<QT>), a.same("a k of type", type_code<KT>);
    a.same("batch", q_.extent(0)), a.same("query heads", q_.extent(1)), a.same("key/value heads", k_.extent(1));
    a.same("head dim", q_.extent(3)), a.same("value dim", v_.extent(3));
    a.same("mask", static_cast<std::int64_t>(heed::detail::parts(opt_.mask).present));
    a.same("feature", map.map_value != nullptr ? -1 : static_cast<std::int64_t>(map.built_in));
    a.same("normalize", opt_.normalize), a.same_real("scale", opt_.scale), a.same_real("eps", opt_.eps);
  }
  state_shape shape() const {
    const index_t features = heed::detail::feature_dim(heed::detail::parts(opt_.feature), k_.extent(3));
    return {k_.extent(0), k_.extent(1), features, v_.extent(3), opt_.normalize, false};
  }
  bool dense() const { return !heed::detail::parts(opt_.mask).has(heed::detail::mask_parts::causal); }
  bool has_initial() const { return opt_.initial_state.s.data() != nullptr; }
  void take(heed::detail::arena&) const {}

  // The state behind this rank's tokens: a call without queries.
  void local_state(const state_change<T>& into, const context& inner) const {
    heed::linear::forward(slice(q_, 2, 0, 0), k_, v_, no_rows(), state_options(into.view()), inner);
  }
  void add_initial(const state_view<T>& to) const {
    if (has_initial()) add(to, opt_.initial_state);
  }

 protected:
  tensor_view<T, 4> no_rows() const { return bhsd(planned<T>(15), q_.extent(0), q_.extent(1), 0, v_.extent(3)); }
  heed::linear::options<T> state_options(const state_view<T>& into) const {
    heed::linear::options<T> opt = opt_;
    opt.mask = {}, opt.align = bottom_right, opt.final_state = into;
    return opt;
  }
  heed::linear::options<T> options_from(const state_view<T>& before) const {
    heed::linear::options<T> opt = opt_;
    opt.initial_state = before;
    return opt;
  }
  state_view<T> planned_state(int which) const { return state_change<T>{shape(), planned<T>(which)}.view(); }
  std::size_t measure_state(const executor_ref& executor) const {
    return heed::linear::plan_forward(slice(q_, 2, 0, 0), k_, v_, no_rows(), state_options(planned_state(1)),
                                      {.executor = executor})
        .workspace_bytes;
  }

  tensor_view<const QT, 4> q_;
  tensor_view<const KT, 4> k_, v_;
  const heed::linear::options<T>& opt_;
};

template <class QT, class KT, class OT> class linear_forward : public linear_over_ranks<QT, KT> {
  using base = linear_over_ranks<QT, KT>;
  using typename base::T;

 public:
  static constexpr std::int64_t verb = 3;
  static constexpr bool is_backward = false;

  linear_forward(const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                 const tensor_view<const KT, 4>& v, const tensor_view<OT, 4>& o, const heed::linear::options<T>& opt)
      : base(q, k, v, opt), o_(o) {}

  bool has_initial_gradient() const { return false; }
  bool has_final_gradient() const { return false; }
  plan plan_local(const executor_ref& executor) const {
    return heed::linear::plan_forward(this->q_, this->k_, this->v_, o_, this->opt_, {.executor = executor});
  }
  std::size_t measure(const executor_ref& executor) const {
    const plan from_state = heed::linear::plan_forward(
        this->q_, this->k_, this->v_, o_, this->options_from(this->planned_state(1)), {.executor = executor});
    return std::max({this->measure_state(executor), from_state.workspace_bytes, plan_local(executor).workspace_bytes});
  }
  void run(const state_view<T>& before, const state_view<T>&, const context& inner) const {
    heed::linear::forward(this->q_, this->k_, this->v_, o_, this->options_from(before), inner);
  }
  void run_alone(const context& inner) const {
    heed::linear::forward(this->q_, this->k_, this->v_, o_, this->opt_, inner);
  }

 private:
  tensor_view<OT, 4> o_;
};

template <class QT, class KT, class OT, class DT> class linear_backward : public linear_over_ranks<QT, KT> {
  using base = linear_over_ranks<QT, KT>;
  using typename base::T;

 public:
  static constexpr std::int64_t verb = 4;
  static constexpr bool is_backward = true;

  linear_backward(const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                  const tensor_view<const KT, 4>& v, const tensor_view<const OT, 4>& o,
                  const tensor_view<const DT, 4>& dout, const heed::linear::gradients<T>& out,
                  const heed::linear::options<T>& opt)
      : base(q, k, v, opt), o_(o), dout_(dout), out_(out) {}

  bool has_initial_gradient() const { return out_.dinitial_state.s.data() != nullptr; }
  bool has_final_gradient() const { return out_.dfinal_state.s.data() != nullptr; }
  plan plan_local(const executor_ref& executor) const { return plan_of(out_, this->opt_, executor); }
  std::size_t measure(const executor_ref& executor) const {
    const heed::linear::options<T> opt = from(this->planned_state(1));
    return std::max({this->measure_state(executor), plan_local(executor).workspace_bytes,
                     plan_of(state_gradients(this->planned_state(2)), opt, executor).workspace_bytes,
                     plan_of(with_final(this->planned_state(3)), opt, executor).workspace_bytes});
  }
  void local_gradient(const state_view<T>& before, const state_change<T>& into, const context& inner) const {
    call(state_gradients(into.view()), from(before), inner);
  }
  void add_final_gradient(const state_view<T>& to) const {
    if (has_final_gradient()) add(to, out_.dfinal_state);
  }
  void run(const state_view<T>& before, const state_view<T>& behind, const context& inner) const {
    call(with_final(behind), from(before), inner);
  }
  void run_alone(const context& inner) const { call(out_, this->opt_, inner); }

 private:
  heed::linear::options<T> from(const state_view<T>& before) const {
    heed::linear::options<T> opt = this->options_from(before);
    opt.final_state = {};  // backward does not write it
    return opt;
  }
  heed::linear::gradients<T> state_gradients(const state_view<T>& into) const {
    return {.dinitial_state = into, .dfinal_state = out_.dfinal_state};
  }
  heed::linear::gradients<T> with_final(const state_view<T>& behind) const {
    heed::linear::gradients<T> g = out_;
    g.dfinal_state = behind;
    return g;
  }
  plan plan_of(const heed::linear::gradients<T>& g, const heed::linear::options<T>& opt,
               const executor_ref& executor) const {
    return heed::linear::plan_backward(this->q_, this->k_, this->v_, o_, dout_, g, opt, {.executor = executor});
  }
  void call(const heed::linear::gradients<T>& g, const heed::linear::options<T>& opt, const context& inner) const {
    heed::linear::backward(this->q_, this->k_, this->v_, o_, dout_, g, opt, inner);
  }

  tensor_view<const OT, 4> o_;
  tensor_view<const DT, 4> dout_;
  const heed::linear::gradients<T>& out_;
};

template <class Q, class K, class V, class O>
auto linear_forward_of(const Q& q, const K& k, const V& v, O& o, const heed::linear::options<acc_of<Q>>& opt) {
  using heed::detail::value_t;
  const tensor_view<element_t<O>, 4> out(o);
  return linear_forward<value_t<Q>, value_t<K>, value_t<O>>(
      tensor_view<const value_t<Q>, 4>(q), tensor_view<const value_t<K>, 4>(k), tensor_view<const value_t<V>, 4>(v),
      {const_cast<value_t<O>*>(out.data()), out.extents(), out.strides()}, opt);
}
template <class Q, class K, class V, class O, class D>
auto linear_backward_of(const Q& q, const K& k, const V& v, const O& o, const D& dout,
                        const heed::linear::gradients<acc_of<Q>>& out, const heed::linear::options<acc_of<Q>>& opt) {
  using heed::detail::value_t;
  return linear_backward<value_t<Q>, value_t<K>, value_t<O>, value_t<D>>(
      tensor_view<const value_t<Q>, 4>(q), tensor_view<const value_t<K>, 4>(k), tensor_view<const value_t<V>, 4>(v),
      tensor_view<const value_t<O>, 4>(o), tensor_view<const value_t<D>, 4>(dout), out, opt);
}
}  // namespace HEED_ISA
}  // namespace detail

namespace linear {
inline namespace HEED_ISA {

// Says what forward would do on this rank, or why it would throw. All ranks call it together. workspace_bytes is of
// this rank. Throws heed::error where the network fails.
template <network N, viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(N& net, const Q& q, const K& k, const V& v, const O& o,
                  const heed::linear::options<acc_of<Q>>& opt = {}, const options& how = {},
                  const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  auto kernel = detail::linear_forward_of(q, k, v, o, opt);
  return detail::state_call_of<acc_of<Q>>(net, kernel, how, context).make_plan();
}

// Computes linear attention over a sequence that is cut among ranks (contiguous), as linear::forward would over all of
// it. Every rank calls it with its own tokens and gets its own rows of o; shapes as in linear::forward, lengths may
// differ and be 0. Each rank sums its keys, the sums of the ranks before it become its initial state (without causal():
// those of all others), and only states, (B, Hk, features, E) and z, go over the network, whatever the length.
// initial_state is given on rank 0 alone; final_state on any rank, as the state behind its tokens (without causal():
// of all tokens). Mask: none or causal. Options are alike on all ranks. The same bits for every run. Throws heed::error
// as softmax::forward does.
// Sun et al., LASP (arXiv 2404.02882) and LASP-2 (arXiv 2502.07563); Katharopoulos et al. (arXiv 2006.16236).
template <network N, viewable Q, viewable K, viewable V, viewable O>
void forward(N& net, const Q& q, const K& k, const V& v, O&& o, const heed::linear::options<acc_of<Q>>& opt = {},
             const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  auto kernel = detail::linear_forward_of(q, k, v, o, opt);
  detail::state_call_of<acc_of<Q>>(net, kernel, how, context).run();
}

// Says what backward would do on this rank, or why it would throw, as plan_forward.
template <network N, viewable Q, viewable K, viewable V, viewable O, viewable D>
plan plan_backward(N& net, const Q& q, const K& k, const V& v, const O& o, const D& dout,
                   const heed::linear::gradients<acc_of<Q>>& out, const heed::linear::options<acc_of<Q>>& opt = {},
                   const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  auto kernel = detail::linear_backward_of(q, k, v, o, dout, out, opt);
  return detail::state_call_of<acc_of<Q>>(net, kernel, how, context).make_plan();
}

// Computes the gradients of forward over ranks, each rank those of its own tokens, with the o that forward wrote. The
// gradient of the state goes back from the last rank to the first. dfinal_state is read on the last rank, and
// dinitial_state written on rank 0; both are errors elsewhere. Everything else is as in linear::backward and forward.
template <network N, viewable Q, viewable K, viewable V, viewable O, viewable D>
void backward(N& net, const Q& q, const K& k, const V& v, const O& o, const D& dout,
              const heed::linear::gradients<acc_of<Q>>& out, const heed::linear::options<acc_of<Q>>& opt = {},
              const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  auto kernel = detail::linear_backward_of(q, k, v, o, dout, out, opt);
  detail::state_call_of<acc_of<Q>>(net, kernel, how, context).run();
}

}  // namespace HEED_ISA
}  // namespace linear
}  // namespace heed::distributed
