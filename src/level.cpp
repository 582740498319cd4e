// SPDX-License-Identifier: BSD-3-Clause

// All verbs for one level. Compiled once per level, with its machine flags and HEED_DISPATCH_LEVEL as its name.

#include "heed/dispatch/verbs.hpp"
#include "heed/softmax.hpp"

namespace heed::dispatch {
inline namespace HEED_ISA {

// f(view) of a tensor that holds what calls in T may hold
template <class T, class F> auto visit(const tensor& x, F f) {
  if constexpr (std::is_same_v<T, double>) {
    return f(x.view<double>());
  } else {
    switch (x.element) {
      case storage::bf16:
        return f(x.view<bf16_t>());
      case storage::f16:
        return f(x.view<f16_t>());
      default:
        return f(x.view<float>());
    }
  }
}
// f(q, k, v, o); k and v hold one type
template <class T, class F> auto visit(const rows& x, F f) {
  return visit<T>(x.q, [&](auto q) {
    return visit<T>(x.k, [&](auto k) {
      return visit<T>(x.o, [&](auto o) { return f(q, k, x.v.view<typename decltype(k)::element_type>(), o); });
    });
  });
}

template <class Call> void answer(Call&& call, const context& ctx, plan* out, heed::detail::problem_text& problem) {
  if (out == nullptr) return tile::try_call(call, problem, ctx);
  *out = tile::plan_call(call, ctx);
}

template <class T>
void run_softmax_forward(const softmax_forward<T>& x, const context& ctx, plan* out,
                         heed::detail::problem_text& problem) {
  auto all = visit<T>(x.rows, [](auto q, auto k, auto v, auto o) { return pairwise::rows_of_softmax(q, k, v, o); });
  all.one_axis = x.rows.one_axis;
  answer(softmax::detail::forward_call<T>{{x.options, all}}, ctx, out, problem);
}

template <class T> constexpr verbs<T> table{&run_softmax_forward<T>};

}  // namespace HEED_ISA

namespace HEED_DISPATCH_LEVEL {
extern const verbs<float> of_float;
extern const verbs<double> of_double;
const verbs<float> of_float = table<float>;
const verbs<double> of_double = table<double>;
}  // namespace HEED_DISPATCH_LEVEL

}  // namespace heed::dispatch
