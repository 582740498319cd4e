// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The call of convert.

#include <algorithm>
#include <array>

#include "heed/convert/run.hpp"
#include "heed/core/call.hpp"
#include "heed/core/check.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"
#include "heed/tile/verb.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

// The elements of two tensors of equal shape as rows of runs that are as long as the strides of both allow.
struct paired_runs {
  std::array<index_t, 4> extents, from, to;  // the last: of a run

  // Joins to the runs what follows them at the same stride in both tensors; not empty.
  void join() {
    for (std::size_t axis = 3; axis-- > 0;) {
      if (extents[3] == 1) {
        extents[3] = extents[axis], from[3] = from[axis], to[3] = to[axis];
      } else if (extents[axis] == 1 || (from[axis] == extents[3] * from[3] && to[axis] == extents[3] * to[3])) {
        extents[3] *= extents[axis];
      } else {
        return;
      }
      extents[axis] = 1;
    }
  }

  index_t rows() const { return extents[0] * extents[1] * extents[2]; }
  index_t first(const std::array<index_t, 4>& strides, index_t row) const {
    return row / (extents[1] * extents[2]) * strides[0] + row / extents[2] % extents[1] * strides[1] +
           row % extents[2] * strides[2];
  }
};

inline void check_conversion(checker& check, const named_tensor& from, const named_tensor& to, index_t from_bytes,
                             index_t to_bytes) {
  check.tensor(from, false), check.tensor(to, false), check.written(to);
  const char* const axes[] = {"batch", "heads", "rows", "columns"};
  double elements = 1;
  for (int axis = 0; axis < 4; ++axis) {
    check.equal(from, to, axis, axes[axis]);
    elements *= static_cast<double>(from.extent(axis));
  }
  check.require(elements < 9e18, "from has % elements, must have less than 9e18", elements);
  if (from.data != to.data || from.empty()) return;
  check.require(from_bytes == to_bytes,
                "to is the same memory as from: its elements have % bytes, those of from %, must be equal", to_bytes,
                from_bytes);
  for (int axis = 0; axis < 4; ++axis)
    check.require(from.stride(axis) == to.stride(axis),
                  "to is the same memory as from: its stride on axis % is %, that of from %, must be equal", axis,
                  to.stride(axis), from.stride(axis));
}

template <class From, class To> struct convert_call {
  tensor_view<const From, 4> from;
  tensor_view<To, 4> to;
  paired_runs runs = {};
  index_t rows_of_task = 0, pieces = 0;  // of a run; a task is a piece of one run, or several whole runs
  static constexpr index_t task_elements = 16384;

  convert_call(const tensor_view<const From, 4>& x, const tensor_view<To, 4>& y)
      : from(with_canonical_strides(x)), to(with_canonical_strides(y)) {}

  void check(checker& check) const { check_conversion(check, {"from", from}, {"to", to}, sizeof(From), sizeof(To)); }

  tile::workload measure(index_t) {
    if (to.empty()) return {};
    runs = {to.extents(), from.strides(), to.strides()};
    runs.join();
    pieces = (runs.extents[3] - 1) / task_elements + 1;
    rows_of_task = std::max<index_t>(task_elements / runs.extents[3], 1);
    return {.tasks = pieces * ((runs.rows() - 1) / rows_of_task + 1)};
  }

  void describe(plan& out) const {
    const bool lanes = runs.from[3] == 1 && runs.to[3] == 1 &&
                       (std::is_same_v<From, To> || !(std::is_same_v<From, double> || std::is_same_v<To, double>));
    out.path = lanes ? "convert: elements in lanes" : "convert: one element at a time";
    heed::detail::message text(out.why);
    if (out.tasks == 0)
      text << "no elements";
    else
      text << runs.rows() << " runs of " << runs.extents[3] << " elements, strides " << runs.from[3] << " and "
           << runs.to[3];
  }

  void run(const tile::workload& work, const tile::call_memory& memory, const executor_ref& executor) const {
    tile::run_tasks(work.tasks, work.slots, memory, executor, [&](std::span<std::byte>, auto claim) {
      claim([&](index_t task) {
        const index_t first_row = task / pieces * rows_of_task, first = task % pieces * task_elements;
        const index_t last_row = std::min(first_row + rows_of_task, runs.rows());
        const index_t n = std::min(task_elements, runs.extents[3] - first);
        for (index_t row = first_row; row < last_row; ++row)
          convert_run(from.data() + runs.first(runs.from, row) + first * runs.from[3], runs.from[3],
                      to.data() + runs.first(runs.to, row) + first * runs.to[3], runs.to[3], n);
      });
    });
  }
};

template <viewable From, viewable To> HEED_INLINE auto convert_of(const From& from, const To& to) {
  return convert_call<value_t<From>, value_t<To>>(from, planned_output<value_t<To>>(to));
}

}  // namespace HEED_ISA
}  // namespace heed::detail
