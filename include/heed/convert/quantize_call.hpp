// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The calls of quantize and dequantize.

#include <algorithm>
#include <cstdint>

#include "heed/core/call.hpp"
#include "heed/core/check.hpp"
#include "heed/core/view.hpp"
#include "heed/tile/int8_rows.hpp"
#include "heed/tile/row_format.hpp"
#include "heed/tile/row_reader.hpp"
#include "heed/tile/verb.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

inline void check_int8(checker& check, const named_tensor& x, const named_tensor& q8, const named_tensor& scale) {
  check.tensor(x, false), check.tensor(q8, true), check.tensor(scale, false);
  const char* const axes[] = {"batch", "heads", "rows", "columns"};
  double elements = 1;
  for (int axis = 0; axis < 4; ++axis) {
    check.equal(x, q8, axis, axes[axis]);
    if (axis < 3) check.equal(x, scale, axis, axes[axis]);
    elements *= static_cast<double>(x.extent(axis));
  }
  check.require(x.extent(3) > 0, "x has % columns, must have at least 1", x.extent(3));
  check.require(elements < 9e18, "x has % elements, must have less than 9e18", elements);
  check.distinct(x, q8), check.distinct(x, scale), check.distinct(q8, scale);
}

// Runs a call on all rows of its tensor, many of them in a task.
template <class Call> struct each_row_call {
  Call call;

  void check(checker& check) const { call.check(check); }
  tile::workload measure(index_t) const {
    return {.tasks = call.rows() == 0 ? 0 : (call.rows() - 1) / rows_of_task() + 1};
  }
  index_t rows_of_task() const { return 1 + 16384 / call.x.extent(3); }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte>, auto claim) {
      claim([&](index_t task) {
        const index_t first = task * rows_of_task(), last = std::min(first + rows_of_task(), call.rows());
        call.run(first, last);
      });
    });
  }
};

template <class X> struct int8_tensors {  // X: input_tensor or output_tensor
  X x;
  const tile::row_format<float>* format;

  index_t rows() const { return x.extent(0) * x.extent(1) * x.extent(2); }
  template <class F> void each(index_t first, index_t last, const F& f) const {  // f(batch, head, row)
    const index_t heads = x.extent(1), n = x.extent(2);
    for (index_t i = first; i < last; ++i) f(i / (heads * n), i / n % heads, i % n);
  }
};

struct quantize_call : int8_tensors<input_tensor> {
  tensor_view<std::int8_t, 4> q8;
  tensor_view<float, 3> scale;

  void check(checker& check) const {
    check_int8(check, {"x", x}, {"q8", q8}, {"scale", scale});
    check.written({"q8", q8}), check.written({"scale", scale});
  }
  void run(index_t first, index_t last) const {
    tile::row_reader<float> reader(x, *format);
    each(first, last, [&](index_t b, index_t h, index_t i) {
      scale(b, h, i) = tile::quantize_row(reader, x.row(b, h, i), x.extent(3), &q8(b, h, i, 0));
    });
  }
};

struct dequantize_call : int8_tensors<output_tensor> {
  tensor_view<const std::int8_t, 4> q8;
  tensor_view<const float, 3> scale;

  void check(checker& check) const {
    check.tensor({"x", x}, true);
    check_int8(check, {"x", x}, {"q8", q8}, {"scale", scale});
    check.written({"x", x});
  }
  void run(index_t first, index_t last) const {
    float numbers[tile::row_reader<float>::most];
    each(first, last, [&](index_t b, index_t h, index_t i) {
      const std::int8_t* const q = &q8(b, h, i, 0);
      tile::row_reader<float>::each(x.extent(3), [&](index_t c, index_t n) {
        for (index_t j = 0; j < n; ++j) numbers[j] = static_cast<float>(q[c + j]);
        format->write(numbers, scale(b, h, i), x.row(b, h, i) + c * format->element, n);
      });
    });
  }
};

template <viewable X>
HEED_INLINE auto quantize_of(const X& x, const tensor_view<std::int8_t, 4>& q8, const tensor_view<float, 3>& scale) {
  using S = value_t<X>;
  return each_row_call<quantize_call>{
      {{input_tensor(tensor_view<const S, 4>(x)), &tile::row_format_of<float, S>}, q8, scale}};
}
template <viewable X>
HEED_INLINE auto dequantize_of(const tensor_view<const std::int8_t, 4>& q8, const tensor_view<const float, 3>& scale,
                               const X& x) {
  using S = value_t<X>;
  return each_row_call<dequantize_call>{
      {{output_tensor(planned_output<S>(x)), &tile::row_format_of<float, S>}, q8, scale}};
}

}  // namespace HEED_ISA
}  // namespace heed::detail
