// SPDX-License-Identifier: BSD-3-Clause

#include "heed/cache/store_run.hpp"
#include "heed/convert/quantize_call.hpp"
#include "heed/convert/tensor_call.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

namespace {

// f(view) of a tensor of any floating-point numbers
template <class F> void visit_any(const tensor& x, F f) {
  if (x.element == storage::f64)
    f(x.view<double>());
  else
    visit<float>(x, f);
}

}  // namespace

void answer(const convert& x, const context& where, plan* out, failure& problem) {
  visit_any(x.from, [&](auto from) {
    visit_any(x.to, [&](auto to) { answer_call(heed::detail::convert_of(from, to), where, out, problem); });
  });
}
void answer(const quantize& x, const context& where, plan*, failure& problem) {
  visit<float>(x.x, [&](auto from) {
    guarded(problem, [&] { tile::try_call(heed::detail::quantize_of(from, x.q8, x.scale), problem.text, where); });
  });
}
void answer(const dequantize& x, const context& where, plan*, failure& problem) {
  visit<float>(x.x, [&](auto to) {
    guarded(problem, [&] { tile::try_call(heed::detail::dequantize_of(x.q8, x.scale, to), problem.text, where); });
  });
}

template <class T> void answer(const append& x, const context&, plan*, failure&) {
  const heed::detail::token_run run{x.batch, x.head, x.first, x.count};
  const auto store = [&]<class To>(To* to) {
    heed::detail::store_run<To, T>(input<T>(x.x), format<T>(x.x), run, to, x.scale);
  };
  if constexpr (std::is_same_v<T, double>) {
    store(static_cast<double*>(x.to));
  } else {
    switch (x.to_element) {
      case storage::bf16:
        return store(static_cast<bf16_t*>(x.to));
      case storage::f16:
        return store(static_cast<f16_t*>(x.to));
      case storage::int8:
        return store(static_cast<std::int8_t*>(x.to));
      default:
        return store(static_cast<float*>(x.to));
    }
  }
}
template void answer<float>(const append&, const context&, plan*, failure&);
template void answer<double>(const append&, const context&, plan*, failure&);

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
