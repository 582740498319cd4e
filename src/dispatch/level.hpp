// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// For the files that are compiled once per level, with its machine flags and HEED_DISPATCH_LEVEL as its name: tensors
// get their element types back, and a call is planned or run. answer(request, ...) is a verb's function in the table.

#include <string_view>
#include <type_traits>
#include <utility>

#include "heed/core/message.hpp"
#include "heed/dispatch/verbs.hpp"
#include "heed/level.hpp"
#include "heed/pairwise/cache.hpp"
#include "heed/pairwise/gradient_problem.hpp"
#include "heed/pairwise/unit_driver.hpp"
#include "heed/tile/row_format.hpp"
#include "heed/tile/verb.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

static_assert(std::string_view(HEED_NAME(HEED_LEVEL)) == HEED_NAME(HEED_DISPATCH_LEVEL),
              "heed::dispatch sets the machine flags of each level itself: leave -march and other -m flags out of "
              "CMAKE_CXX_FLAGS");

// f(view) of a tensor that calls which sum in T may have
template <class T, class F> HEED_INLINE decltype(auto) visit(const tensor& x, F f) {
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
template <class View> using element_of = typename View::element_type;

HEED_INLINE index_t element_bytes(storage x) {
  return x == storage::f64 ? 8 : x == storage::f32 ? 4 : x == storage::int8 ? 1 : 2;
}
template <class> HEED_INLINE heed::detail::input_tensor input(const tensor& x) {
  return {static_cast<const std::byte*>(x.data), element_bytes(x.element), x.extents, x.strides};
}
template <class> HEED_INLINE heed::detail::output_tensor output(const tensor& x) {
  return {static_cast<std::byte*>(x.data), element_bytes(x.element), x.extents, x.strides};
}

// By storage; nothing where calls that sum in T do not take it
template <class T>
inline constexpr const tile::row_format<T>* formats[] = {&tile::row_format_of<float, float>, nullptr,
                                                         &tile::row_format_of<float, bf16_t>,
                                                         &tile::row_format_of<float, f16_t>};
template <>
inline constexpr const tile::row_format<double>* formats<double>[] = {nullptr, &tile::row_format_of<double, double>};
template <class T> HEED_INLINE const tile::row_format<T>* format(const tensor& x) {
  return formats<T>[static_cast<std::size_t>(x.element)];
}

template <class T> HEED_INLINE tile::call_rows<T> call_rows(const rows& x) {
  return {{input<T>(x.q), input<T>(x.k), input<T>(x.v), output<T>(x.o), x.one_axis},
          format<T>(x.q),
          format<T>(x.k),
          format<T>(x.o)};
}
template <class T> HEED_INLINE pairwise::softmax_rows<T> softmax_rows(const rows& x) {
  pairwise::softmax_rows<T> all{call_rows<T>(x), nullptr, nullptr};
  all.few_format =
      visit<T>(x.k, [](auto view) { return &pairwise::few_rows_format_of<T, element_of<decltype(view)>>; });
  if constexpr (std::is_same_v<T, float>)
    if (x.q.element == storage::bf16 && x.k.element == storage::bf16)
      all.on_unit =
          pairwise::detail::unit_driver_for<tensor_view<bf16_t, 4>, tensor_view<bf16_t, 4>, tensor_view<bf16_t, 4>>();
  return all;
}
template <class T> pairwise::gradient_rows<T> gradient_rows(const rows& x, const tensor& dout) {
  return {call_rows<T>(x), input<T>(dout), format<T>(dout)};
}

template <class T> pairwise::query_rows<T> ends(const query_rows& x) {
  return {input<T>(x.q), output<T>(x.o), format<T>(x.q), format<T>(x.o), x.one_axis};
}

// f(q and o, cache) with the cache as it is typed
template <class T, class F> void visit_cache(const cached_rows& x, F f) {
  const pairwise::query_rows<T> rows = ends<T>(x);
  const auto as = [&]<class C>(C) {
    if (x.prefixed)
      f(rows, *static_cast<const prefixed_cache_view<C>*>(x.cache));
    else
      f(rows, *static_cast<const kv_cache_view<C>*>(x.cache));
  };
  if constexpr (std::is_same_v<T, double>) {
    as(double());
  } else {
    switch (x.element) {
      case storage::bf16:
        return as(bf16_t());
      case storage::f16:
        return as(f16_t());
      case storage::int8:
        return as(std::int8_t());
      default:
        return as(0.0f);
    }
  }
}

// f(), with what heed throws in it as a failure
template <class F> HEED_INLINE void guarded(failure& problem, F f) {
#if defined(__cpp_exceptions)
  try {
    f();
  } catch (const error& e) {
    heed::detail::message(problem.text) << (e.what()[0] == 0 ? "heed::error" : e.what());
  } catch (const not_converged& e) {
    heed::detail::message(problem.text) << e.what();
    problem.not_converged = true;
  }
#else
  static_cast<void>(problem);
  f();
#endif
}

template <class Call> HEED_INLINE void answer_call(Call&& call, const context& where, plan* out, failure& problem) {
  if (out != nullptr) {
    *out = tile::plan_call(call, where);
    if (out->isa[0] != 0) out->isa = level();
    return;
  }
  guarded(problem, [&] { tile::try_call(call, problem.text, where); });
}

// A prepared call of this level without its type
template <class Rows> struct kept_call {
  virtual ~kept_call() = default;
  virtual void run(const Rows* on) = 0;
};
template <class Rows> void run_kept(void* call, const Rows* on, failure& problem) {
  guarded(problem, [&] { static_cast<kept_call<Rows>*>(call)->run(on); });
}
template <class Rows> void destroy_kept(void* call) { delete static_cast<kept_call<Rows>*>(call); }

template <class T> void* make_prepared(const softmax_forward<T>&, const context&, failure&);
template <class T> void* make_prepared(const softmax_decode<T>&, const context&, failure&);

#define HEED_REQUEST(NAME) \
  template <class T> void answer(const NAME<T>& x, const context& where, plan* out, failure& problem)
HEED_REQUEST(softmax_forward);
HEED_REQUEST(softmax_backward);
HEED_REQUEST(softmax_decode);
HEED_REQUEST(softmax_merge);
HEED_REQUEST(mixture_forward);
HEED_REQUEST(mixture_backward);
HEED_REQUEST(mixture_decode);
HEED_REQUEST(local_linear_forward);
HEED_REQUEST(local_linear_apply);
HEED_REQUEST(local_linear_backward);
HEED_REQUEST(local_linear_decode);
HEED_REQUEST(linear_forward);
HEED_REQUEST(linear_backward);
HEED_REQUEST(linear_decode);
HEED_REQUEST(lightning_forward);
HEED_REQUEST(lightning_backward);
HEED_REQUEST(lightning_decode);
template <class T> void answer(const append& x, const context& where, plan* out, failure& problem);
void answer(const convert& x, const context& where, plan* out, failure& problem);
void answer(const quantize& x, const context& where, plan* out, failure& problem);
void answer(const dequantize& x, const context& where, plan* out, failure& problem);

#define HEED_ANSWER(NAME)                                                    \
  template void answer(const NAME<float>&, const context&, plan*, failure&); \
  template void answer(const NAME<double>&, const context&, plan*, failure&);

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
