// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cmath>

#include "heed/core/call.hpp"
#include "heed/core/decay.hpp"
#include "heed/distributed/linear.hpp"
#include "heed/lightning/backward.hpp"
#include "heed/lightning/forward.hpp"

namespace heed::distributed {
namespace detail {
inline namespace HEED_ISA {

// The state behind a rank's tokens without o, which takes about a third of the time of forward: keys, each with what
// is left of it behind its block of tokens, are summed by linear attention without queries.
template <class KT, class T> class decayed_state {
 public:
  static constexpr index_t block = 64;  // tokens

  decayed_state(const tensor_view<const KT, 4>& k, const tensor_view<const KT, 4>& v,
                const heed::detail::decay_parts<T>& decay, index_t states)
      : k_(k), v_(v), decay_(decay), states_(states) {}

  void take(heed::detail::arena& memory) {
    keys_ = memory.take<T>(k_.extent(0) * states_ * block * k_.extent(3));
    values_ = memory.take<T>(k_.extent(0) * states_ * block * v_.extent(3));
  }
  std::size_t measure(const executor_ref& executor) const {
    std::size_t most = 0;
    const state_shape shape{k_.extent(0), states_, k_.extent(3), v_.extent(3), false, true};
    for (const index_t count : {block, k_.extent(2) % block}) {
      const auto state = state_change<T>{shape, planned<T>(3)}.view();
      most = std::max(most, heed::linear::plan_forward(no_rows(k_.extent(3)), rows(planned<T>(1), k_, count),
                                                       rows(planned<T>(2), v_, count), no_rows(v_.extent(3)),
                                                       options_of(state), {.executor = executor})
                                .workspace_bytes);
    }
    return most;
  }

  // Adds this rank's tokens to a state, and their decay to its factors.
  void run(const state_change<T>& into, const context& inner) const {
    const index_t group = states_ / std::max<index_t>(1, k_.extent(1));
    for (index_t first = 0; first < k_.extent(2); first += block) {
      const index_t count = std::min(block, k_.extent(2) - first);
      const auto keys = rows(keys_, k_, count), values = rows(values_, v_, count);
      for (index_t b = 0; b < k_.extent(0); ++b)
        for (index_t h = 0; h < states_; ++h) {
          double log_left = 0;  // of the factor from behind token i to the end of the block
          for (index_t i = count; i-- > 0;) {
            const T left = static_cast<T>(std::exp(log_left));
            const bool cut = heed::detail::equals(left, T(0));  // then nothing of the token is left, nor of a NaN in it
            for (index_t d = 0; d < k_.extent(3); ++d)
              keys(b, h, i, d) = cut ? T(0) : left * static_cast<T>(k_(b, h / group, first + i, d));
            for (index_t e = 0; e < v_.extent(3); ++e)
              values(b, h, i, e) = cut ? T(0) : static_cast<T>(v_(b, h / group, first + i, e));
            log_left += log_factor(b, h, first + i);
          }
          decay(into, b * states_ + h, static_cast<T>(std::exp(log_left)));
        }
      heed::linear::forward(no_rows(k_.extent(3)), tensor_view<const T, 4>(keys), tensor_view<const T, 4>(values),
                            no_rows(v_.extent(3)), options_of(into.view()), inner);
    }
  }

 private:
  double log_factor(index_t b, index_t h, index_t token) const {
    return decay_.gated ? static_cast<double>(decay_.log_gates(b, h, token)) : -decay_.slopes.at(h);
  }
  static void decay(const state_change<T>& into, index_t state, T factor) {
    const index_t n = into.shape.features * into.shape.e;
    T* const s = into.data + state * n;
    for (index_t i = 0; i < n; ++i) s[i] = heed::detail::equals(factor, T(0)) ? T(0) : s[i] * factor;
    into.factors()[state] *= factor;
  }
  tensor_view<T, 4> rows(T* memory, const tensor_view<const KT, 4>& x, index_t count) const {
    return bhsd(memory, x.extent(0), states_, count, x.extent(3));
  }
  tensor_view<T, 4> no_rows(index_t dim) const {
    return bhsd(planned<T>(dim == v_.extent(3) ? 15 : 14), k_.extent(0), states_, 0, dim);
  }
  heed::linear::options<T> options_of(const state_view<T>& state) const {
    return {.feature = heed::feature::identity, .normalize = false, .initial_state = state, .final_state = state};
  }

  tensor_view<const KT, 4> k_, v_;
  const heed::detail::decay_parts<T>& decay_;
  index_t states_;
  T *keys_ = nullptr, *values_ = nullptr;
};

// What forward and backward of lightning attention have in common.
template <class QT, class KT> class lightning_over_ranks {
 protected:
  using T = heed::detail::acc_t<QT>;

 public:
  lightning_over_ranks(const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                       const tensor_view<const KT, 4>& v, const decay<T>& decay, const heed::lightning::options<T>& opt)
      : q_(q), k_(k), v_(v), decay_(decay), opt_(opt), state_(k, v, heed::detail::parts(decay), states()) {}

  void check(heed::detail::checker& check) const {
    check.require(heed::detail::parts(opt_.mask).present == 0, "the mask of lightning attention over ranks is none");
  }
  void describe(agreement& a) const {
    const auto& d = heed::detail::parts(decay_);
    a.same("a q of type", type_code<QT>), a.same("a k of type", type_code<KT>);
    a.same("batch", q_.extent(0)), a.same("query heads", q_.extent(1)), a.same("key/value heads", k_.extent(1));
    a.same("head dim", q_.extent(3)), a.same("value dim", v_.extent(3)), a.same("heads of the decay", states());
    a.same("log_gates", d.gated), a.same_real("scale", opt_.scale);
    a.same_hash("slopes", d.gated ? 0 : hash_of<T>(d.slopes, states()));
  }
  state_shape shape() const { return {k_.extent(0), states(), k_.extent(3), v_.extent(3), false, true}; }
  bool dense() const { return false; }
  bool has_initial() const { return opt_.initial_state.s.data() != nullptr; }
  void take(heed::detail::arena& memory) { state_.take(memory); }
  void local_state(const state_change<T>& into, const context& inner) const {
    if (has_initial()) add(into.view().s, opt_.initial_state.s);
    state_.run(into, inner);
  }
  void add_initial(const state_view<T>& to) const {
    if (has_initial()) add(to.s, opt_.initial_state.s);
  }

 protected:
  index_t states() const {
    const auto& d = heed::detail::parts(decay_);
    return d.gated ? d.log_gates.extent(1) : d.slopes.one_each() ? d.slopes.size() : q_.extent(1);
  }
  heed::lightning::options<T> options_from(const state_view<T>& before) const {
    heed::lightning::options<T> opt = opt_;
    opt.initial_state = before;
    return opt;
  }
  state_view<T> planned_state(int which) const { return state_change<T>{shape(), planned<T>(which)}.view(); }
  std::size_t measure_state(const executor_ref& executor) const { return state_.measure(executor); }

  tensor_view<const QT, 4> q_;
  tensor_view<const KT, 4> k_, v_;
  const decay<T>& decay_;
  const heed::lightning::options<T>& opt_;
  decayed_state<KT, T> state_;
};

template <class QT, class KT, class OT> class lightning_forward : public lightning_over_ranks<QT, KT> {
  using base = lightning_over_ranks<QT, KT>;
  using typename base::T;

 public:
  static constexpr std::int64_t verb = 5;
  static constexpr bool is_backward = false;

  lightning_forward(const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                    const tensor_view<const KT, 4>& v, const decay<T>& decay, const tensor_view<OT, 4>& o,
                    const heed::lightning::options<T>& opt)
      : base(q, k, v, decay, opt), o_(o) {}

  bool has_initial_gradient() const { return false; }
  bool has_final_gradient() const { return false; }
  plan plan_local(const executor_ref& executor) const { return plan_of(this->opt_, executor); }
  std::size_t measure(const executor_ref& executor) const {
    return std::max({this->measure_state(executor), plan_local(executor).workspace_bytes,
                     plan_of(this->options_from(this->planned_state(1)), executor).workspace_bytes});
  }
  void run(const state_view<T>& before, const state_view<T>&, const context& inner) const {
    heed::lightning::forward(this->q_, this->k_, this->v_, this->decay_, o_, this->options_from(before), inner);
  }
  void run_alone(const context& inner) const {
    heed::lightning::forward(this->q_, this->k_, this->v_, this->decay_, o_, this->opt_, inner);
  }

 private:
  plan plan_of(const heed::lightning::options<T>& opt, const executor_ref& executor) const {
    return heed::lightning::plan_forward(this->q_, this->k_, this->v_, this->decay_, o_, opt, {.executor = executor});
  }

  tensor_view<OT, 4> o_;
};

template <class QT, class KT, class DT> class lightning_backward : public lightning_over_ranks<QT, KT> {
  using base = lightning_over_ranks<QT, KT>;
  using typename base::T;

 public:
  static constexpr std::int64_t verb = 6;
  static constexpr bool is_backward = true;

  lightning_backward(const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                     const tensor_view<const KT, 4>& v, const decay<T>& decay, const tensor_view<const DT, 4>& dout,
                     const heed::lightning::gradients<T>& out, const heed::lightning::options<T>& opt)
      : base(q, k, v, decay, opt), dout_(dout), out_(out) {}

  void describe(agreement& a) const {
    base::describe(a);
    a.same("dslopes", out_.dslopes.data() != nullptr);
  }
  bool has_initial_gradient() const { return out_.dinitial_state.s.data() != nullptr; }
  bool has_final_gradient() const { return out_.dfinal_state.s.data() != nullptr; }
  plan plan_local(const executor_ref& executor) const { return plan_of(out_, this->opt_, executor); }
  std::size_t measure(const executor_ref& executor) const {
    const heed::lightning::options<T> opt = from(this->planned_state(1));
    return std::max({this->measure_state(executor), plan_local(executor).workspace_bytes,
                     plan_of(state_gradients(this->planned_state(2)), opt, executor).workspace_bytes,
                     plan_of(with_final(this->planned_state(3)), opt, executor).workspace_bytes});
  }
  void local_gradient(const state_view<T>& before, const state_change<T>& into, const context& inner) const {
    call(state_gradients(into.view()), from(before), inner);
  }
  void add_final_gradient(const state_view<T>& to) const {
    if (has_final_gradient()) add(to.s, out_.dfinal_state.s);
  }
  void run(const state_view<T>& before, const state_view<T>& behind, const context& inner) const {
    call(with_final(behind), from(before), inner);
  }
  void run_alone(const context& inner) const { call(out_, this->opt_, inner); }

  // Sums dslopes over the ranks, in their order.
  template <network N> void combine(const session<N>& s) const {
    if (out_.dslopes.data() == nullptr) return;
    const auto heads = static_cast<std::size_t>(this->states());
    std::vector<T> mine(heads), all(heads * static_cast<std::size_t>(s.size()));
    for (std::size_t h = 0; h < heads; ++h) mine[h] = out_.dslopes(static_cast<index_t>(h));
    s.gather(std::as_bytes(std::span<const T>(mine)), std::as_writable_bytes(std::span<T>(all)));
    for (std::size_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (std::size_t i = h; i < all.size(); i += heads) sum += static_cast<double>(all[i]);
      out_.dslopes(static_cast<index_t>(h)) = static_cast<T>(sum);
    }
  }

 private:
  heed::lightning::options<T> from(const state_view<T>& before) const {
    heed::lightning::options<T> opt = this->options_from(before);
    opt.final_state = {};  // backward does not write it
    return opt;
  }
  heed::lightning::gradients<T> state_gradients(const state_view<T>& into) const {
    return {.dinitial_state = into, .dfinal_state = out_.dfinal_state};
  }
  heed::lightning::gradients<T> with_final(const state_view<T>& behind) const {
    heed::lightning::gradients<T> g = out_;
    g.dfinal_state = behind;
    return g;
  }
  plan plan_of(const heed::lightning::gradients<T>& g, const heed::lightning::options<T>& opt,
               const executor_ref& executor) const {
    return heed::lightning::plan_backward(this->q_, this->k_, this->v_, this->decay_, dout_, g, opt,
                                          {.executor = executor});
  }
  void call(const heed::lightning::gradients<T>& g, const heed::lightning::options<T>& opt,
            const context& inner) const {
    heed::lightning::backward(this->q_, this->k_, this->v_, this->decay_, dout_, g, opt, inner);
  }

  tensor_view<const DT, 4> dout_;
  const heed::lightning::gradients<T>& out_;
};

template <class Q, class K, class V, class O>
auto lightning_forward_of(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O& o,
                          const heed::lightning::options<acc_of<Q>>& opt) {
  using heed::detail::value_t;
  const tensor_view<element_t<O>, 4> out(o);
  return lightning_forward<value_t<Q>, value_t<K>, value_t<O>>(
      tensor_view<const value_t<Q>, 4>(q), tensor_view<const value_t<K>, 4>(k), tensor_view<const value_t<V>, 4>(v),
      decay, {const_cast<value_t<O>*>(out.data()), out.extents(), out.strides()}, opt);
}
template <class Q, class K, class V, class D>
auto lightning_backward_of(const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const D& dout,
                           const heed::lightning::gradients<acc_of<Q>>& out,
                           const heed::lightning::options<acc_of<Q>>& opt) {
  using heed::detail::value_t;
  return lightning_backward<value_t<Q>, value_t<K>, value_t<D>>(
      tensor_view<const value_t<Q>, 4>(q), tensor_view<const value_t<K>, 4>(k), tensor_view<const value_t<V>, 4>(v),
      decay, tensor_view<const value_t<D>, 4>(dout), out, opt);
}

}  // namespace HEED_ISA
}  // namespace detail

namespace lightning {
inline namespace HEED_ISA {

// Says what forward would do on this rank, or why it would throw. All ranks call it together. workspace_bytes is of
// this rank. Throws heed::error where the network fails.
template <network N, viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(N& net, const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const O& o,
                  const heed::lightning::options<acc_of<Q>>& opt = {}, const options& how = {},
                  const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  auto kernel = detail::lightning_forward_of(q, k, v, decay, o, opt);
  return detail::state_call_of<acc_of<Q>>(net, kernel, how, context).make_plan();
}

// Computes lightning attention over a sequence that is cut among ranks (contiguous), as lightning::forward would over
// all of it. Every rank calls it with its own tokens (and their log_gates) and gets its own rows of o; shapes as in
// lightning::forward, lengths may differ and be 0. A rank multiplies the state by its decay and adds its own keys;
// these changes compose, and only they, (B, heads of the decay, D, E) and a factor per head, go over the network.
// initial_state is given on rank 0 alone; final_state on any rank, as the state behind its tokens. There is no mask.
// Slopes and options are alike on all ranks. The same bits for every run. Throws heed::error as softmax::forward does.
// Sun et al., LASP (arXiv 2404.02882); Qin et al., Lightning Attention-2 (arXiv 2401.04658).
template <network N, viewable Q, viewable K, viewable V, viewable O>
void forward(N& net, const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, O&& o,
             const heed::lightning::options<acc_of<Q>>& opt = {}, const options& how = {},
             const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  auto kernel = detail::lightning_forward_of(q, k, v, decay, o, opt);
  detail::state_call_of<acc_of<Q>>(net, kernel, how, context).run();
}

// Says what backward would do on this rank, or why it would throw, as plan_forward.
template <network N, viewable Q, viewable K, viewable V, viewable D>
plan plan_backward(N& net, const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const D& dout,
                   const heed::lightning::gradients<acc_of<Q>>& out,
                   const heed::lightning::options<acc_of<Q>>& opt = {}, const options& how = {},
                   const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  auto kernel = detail::lightning_backward_of(q, k, v, decay, dout, out, opt);
  return detail::state_call_of<acc_of<Q>>(net, kernel, how, context).make_plan();
}

// Computes the gradients of forward over ranks, each rank those of its own tokens. dslopes is the sum over all ranks,
// on every rank (all ask for it, or none); dlog_gates is of the rank's tokens. dfinal_state is read on the last rank,
// dinitial_state written on rank 0; both are errors elsewhere. Everything else is as in lightning::backward.
template <network N, viewable Q, viewable K, viewable V, viewable D>
void backward(N& net, const Q& q, const K& k, const V& v, const decay<acc_of<Q>>& decay, const D& dout,
              const heed::lightning::gradients<acc_of<Q>>& out, const heed::lightning::options<acc_of<Q>>& opt = {},
              const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, D>());
  auto kernel = detail::lightning_backward_of(q, k, v, decay, dout, out, opt);
  detail::state_call_of<acc_of<Q>>(net, kernel, how, context).run();
}

}  // namespace HEED_ISA
}  // namespace lightning
}  // namespace heed::distributed
