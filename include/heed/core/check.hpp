// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Checks of a call. They see names, pointers, extents and strides, never element types, so that one copy of them serves
// all kernels and types of a program.

#include <cstdarg>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "heed/core/alignment.hpp"
#include "heed/core/call.hpp"
#include "heed/core/config.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/message.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"

namespace heed::detail {

inline namespace HEED_ISA {

// Which of q, k, v and o came with one axis (a range, a vector), bit by bit; it is taken as one row.
template <class Q, class K, class V, class O>
inline constexpr unsigned one_axis =
    (axes<Q> == 1 ? 1u : 0u) | (axes<K> == 1 ? 2u : 0u) | (axes<V> == 1 ? 4u : 0u) | (axes<O> == 1 ? 8u : 0u);

// A tensor of a call and its name. It refers to the view that it was made of. Rank 0: numbers per head.
struct named_tensor {
  HEED_INLINE named_tensor() : name(""), data(nullptr) {}  // an argument that the call does not have
  template <class T, int Rank>
  HEED_INLINE named_tensor(const char* of, const tensor_view<T, Rank>& x)
      : name(of), data(x.data()), extents(x.extents().data()), strides(x.strides().data()), rank(Rank) {}
  template <class Byte>
  HEED_INLINE named_tensor(const char* of, const stored_tensor<Byte>& x)
      : name(of), data(x.data()), extents(x.extents().data()), strides(x.strides().data()), rank(4) {}
  HEED_INLINE named_tensor(const char* of, const void* numbers) : name(of), data(numbers) {}
  HEED_INLINE named_tensor(const char* of, const per_head_view& x)
      : name(of), data(x.one_each() ? x.data() : nullptr) {}

  HEED_INLINE index_t extent(int axis) const { return extents[axis]; }
  HEED_INLINE index_t stride(int axis) const { return strides[axis]; }
  bool empty() const {
    for (int axis = 0; axis < rank; ++axis)
      if (extents[axis] == 0) return true;
    return false;
  }

  const char* name;
  const void* data;
  const index_t *extents = nullptr, *strides = nullptr;
  int rank = 0;
};

// Writes the first thing that is wrong with a call into `problem`.
class checker {
 public:
  explicit checker(problem_text& text) : text_(text) {}

  // Returns whether nothing was wrong so far. otherwise: the text, with a % for each of the values
  template <class... Values> HEED_INLINE bool require(bool holds, const char* otherwise, Values... values) {
    if (!holds) [[unlikely]]
      note(kinds_of<Values...>, otherwise, passed(values)...);
    return ok_;
  }
  bool ok() const { return ok_; }

  // Extents that can be counted, and a pointer where there are elements
  HEED_NOINLINE void tensor(const named_tensor& x, bool unit_last) {
    constexpr index_t most = std::numeric_limits<std::int32_t>::max();
    for (int axis = 0; axis < x.rank; ++axis)
      require(x.extent(axis) >= 0 && x.extent(axis) <= most, "% has extent % on axis %, must be 0 to %", x.name,
              x.extent(axis), axis, most);
    require(x.data != nullptr || x.empty(), "% is null but has elements", x.name);
    const int last = x.rank - 1;
    if (unit_last && x.stride(last) != 1)
      require(x.extent(last) <= 1 || x.empty(), "% has stride % on its last axis, must be 1 (is it column-major?)",
              x.name, x.stride(last));
  }
  HEED_NOINLINE void written(const named_tensor& x) {
    for (int axis = 0; axis < x.rank; ++axis)
      require(x.stride(axis) != 0 || x.extent(axis) <= 1 || x.empty(),
              "% is written but has stride 0 on axis % of extent %", x.name, axis, x.extent(axis));
  }
  HEED_INLINE void equal(const named_tensor& a, const named_tensor& b, int axis, const char* what) {
    if (a.extent(axis) != b.extent(axis)) [[unlikely]]
      differ(a, b, axis, what);
  }

  HEED_INLINE void distinct(const named_tensor& a, const named_tensor& b) {
    if (a.data == b.data && a.data != nullptr) [[unlikely]]
      same_memory(a, b);
  }
  // No output is another argument's memory.
  using names = std::initializer_list<const named_tensor*>;
  HEED_NOINLINE void distinct(names outputs, names others) {
    for (const named_tensor* const a : outputs)
      for (const named_tensor* const b : others) distinct(*a, *b);
  }

  // full: the extents of all axes; broadcasts: 1 will do as well
  HEED_NOINLINE void extents(const named_tensor& x, const index_t* full, bool broadcasts) {
    for (int axis = 0; axis < x.rank; ++axis)
      require(x.extent(axis) == full[axis] || (broadcasts && x.extent(axis) == 1),
              "% has extent % on axis %, must be %%", x.name, x.extent(axis), axis, broadcasts ? "1 or " : "",
              full[axis]);
  }

 private:
  HEED_NOINLINE void differ(const named_tensor& a, const named_tensor& b, int axis, const char* what) {
    require(false, "% has % %, % has %", a.name, what, a.extent(axis), b.name, b.extent(axis));
  }
  HEED_NOINLINE void same_memory(const named_tensor& a, const named_tensor& b) {
    require(a.empty() || b.empty(), "% is the same memory as %", a.name, b.name);
  }
  HEED_NOINLINE void note(const char* kinds, const char* text, ...) {
    if (!ok_) return;
    ok_ = false;
    std::va_list values;
    va_start(values, text);
    write_values(text_, kinds, text, values);
    va_end(values);
  }

  problem_text& text_;
  bool ok_ = true;
};

// The sequences of a call: batch entries, or those that packed() cuts the only one into
struct sequence_counts {
  const mask_parts& mask;
  index_t batch, queries, keys;

  bool packed() const { return mask.has(mask.packed); }
  index_t count() const {
    const auto offsets = static_cast<index_t>(mask.query_offsets.size());
    return !packed() ? batch : offsets > 0 ? offsets - 1 : 0;
  }
  index_t keys_of(std::size_t b) const { return packed() ? mask.key_offsets[b + 1] - mask.key_offsets[b] : keys; }
};

// What every kernel is given
struct call_shapes {
  HEED_INLINE explicit call_shapes(const tensors& x)
      : q("q", x.q),
        k("k", x.k),
        v("v", x.v),
        o("o", x.o),
        one_axis(x.one_axis),
        sequences{x.mask, x.q.extent(0), x.q.extent(2), x.k.extent(2)} {}

  named_tensor q, k, v, o;
  unsigned one_axis;
  sequence_counts sequences;
  bool cached = false;  // k and v count the tokens of a cache, whose tensors have been checked
  bool o_is_read = false;  // backward
};

// The axes that all kernels have in common. A vector that holds a whole tensor, without its axes, is no row: it is
// longer than the dim of any head.
inline void check_tensors(checker& check, const call_shapes& x) {
  constexpr index_t longest_row = 1024;
  const named_tensor* const all[] = {&x.q, &x.k, &x.v, &x.o};
  for (unsigned i = 0; i < 4; ++i)
    check.require((x.one_axis >> i & 1u) == 0 || all[i]->extent(3) <= longest_row,
                  "% has one axis of % elements and is taken as one row, of at most %; if it holds a whole tensor, "
                  "name the axes: bhsd()",
                  all[i]->name, all[i]->extent(3), longest_row);
  for (const named_tensor* const each : all)
    if (!x.cached || (each != &x.k && each != &x.v)) check.tensor(*each, true);
  if (!x.o_is_read) check.written(x.o);
  check.require(x.q.extent(3) > 0, "q has head dim %, must be at least 1", x.q.extent(3));
  check.require(x.v.extent(3) > 0, "v has head dim %, must be at least 1", x.v.extent(3));
  static constexpr struct {
    unsigned char a, b, axis;
    const char* what;
  } equal_axes[] = {{0, 1, 0, "batch"}, {0, 2, 0, "batch"},   {0, 3, 0, "batch"},    {1, 2, 1, "heads"},
                    {1, 2, 2, "keys"},  {0, 3, 2, "queries"}, {0, 1, 3, "head dim"}, {2, 3, 3, "head dim"}};
  for (const auto& each : equal_axes) check.equal(*all[each.a], *all[each.b], each.axis, each.what);
  const double rows =
      static_cast<double>(x.q.extent(0)) * static_cast<double>(x.o.extent(1)) * static_cast<double>(x.q.extent(2));
  check.require(rows < 9e18, "q has % rows in all heads, must have less than 9e18", rows);
  if (x.o_is_read) return;
  for (const named_tensor* const each : {&x.q, &x.k, &x.v}) check.distinct(x.o, *each);
}

// Checks dx, the gradient of x, if it is asked for: it has the shape of x and can be written.
HEED_NOINLINE inline void check_gradient(checker& check, const named_tensor& dx, const named_tensor& x,
                                         bool unit_last) {
  if (dx.data == nullptr) return;
  check.tensor(dx, unit_last), check.written(dx);
  for (int axis = 0; axis < x.rank; ++axis)
    check.require(dx.extent(axis) == x.extent(axis), "% has extent % on axis %, % has %", dx.name, dx.extent(axis),
                  axis, x.name, x.extent(axis));
}

// Checks that no output of backward is the memory of another output or of an input; arguments that are null are left
// out.
HEED_NOINLINE inline void check_gradients_apart(checker& check, checker::names outputs, checker::names inputs) {
  check.distinct(outputs, inputs);
  for (const named_tensor* const* a = outputs.begin(); a != outputs.end(); ++a)
    for (const named_tensor* const* b = outputs.begin(); b != a; ++b) check.distinct(**a, **b);
}

// Offsets that ascend from 0 and stay within count; whole: they end there
HEED_NOINLINE inline void check_offsets(checker& check, const char* name, lengths at, index_t count, bool whole) {
  check.require(!at.empty(), "% is empty, must have at least 1 entry", name);
  for (std::size_t i = 0; check.ok() && i < at.size(); ++i) {
    const index_t least = i == 0 ? 0 : at[i - 1], most = i == 0 ? 0 : count;
    check.require(at[i] >= least && at[i] <= most, "%[%] is %, must be % to %", name, i, at[i], least, most);
  }
  if (whole && check.ok())
    check.require(at.back() == count, "% ends at %, must end at % (the queries of q)", name, at.back(), count);
}

HEED_NOINLINE inline void check_packed(checker& check, const sequence_counts& s) {
  if (!s.packed()) return;
  const per_sequence &query = s.mask.query_offsets, &key = s.mask.key_offsets;
  check.require(s.batch == 1, "packed: q has batch %, must be 1", s.batch);
  check_offsets(check, "packed query_offsets", query, s.queries, true);
  check_offsets(check, "packed key_offsets", key, s.keys, false);
  check.require(query.size() == key.size(), "packed: query_offsets has % entries, key_offsets has %", query.size(),
                key.size());
}

// name[b] in [0, keys of the sequence] for every sequence; after check_packed
HEED_NOINLINE inline void check_lengths(checker& check, const char* name, lengths n, const sequence_counts& s) {
  check.require(static_cast<index_t>(n.size()) == s.count(), "% has % entries, % has %%", name, n.size(),
                s.packed() ? "packed" : "q", s.count(), s.packed() ? " sequences" : " in its batch");
  for (std::size_t b = 0; check.ok() && b < n.size(); ++b)
    check.require(n[b] >= 0 && n[b] <= s.keys_of(b), "%[%] is %, must be 0 to % (the keys of %", name, b, n[b],
                  s.keys_of(b), s.packed() ? "its sequence)" : "k)");
}

HEED_NOINLINE inline void check_alignment(checker& check, const alignment_parts& align, const sequence_counts& s) {
  if (align.has_first)
    check.require(static_cast<index_t>(align.first.size()) == s.count(), "first_place has % entries, %%",
                  align.first.size(), s.packed() ? "packed has " : "q has batch ", s.count());
  check.require(!align.end_of_lengths || s.mask.has(mask_parts::key_lengths),
                "align is end_of_lengths, which needs key_lengths in the mask");
}

// For the `why` of a plan. place_of(sequence): of its query 0
template <class Place> void name_places(message& text, index_t sequences, Place place_of) {
  if (sequences < 1) return;
  index_t least = place_of(index_t{0}), most = least;
  for (index_t s = 1; s < sequences; ++s) {
    const index_t place = place_of(s);
    least = place < least ? place : least, most = place > most ? place : most;
  }
  text << "; query 0 at place " << least;
  if (least < most) text << " to " << most << ", by sequence";
}

}  // namespace HEED_ISA
}  // namespace heed::detail
