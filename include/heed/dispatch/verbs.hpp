// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the compiled library offers for a number type that calls sum in: one table of functions per level. A request
// holds the arguments of a verb but for the context; tensors are in it without their element types.

#include <cstdint>

#include "heed/core/context.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/error.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/state.hpp"
#include "heed/dispatch/rows.hpp"
#include "heed/lightning/options.hpp"
#include "heed/linear/options.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/softmax/options.hpp"

namespace heed::dispatch {

// Why the library did not do what it was asked. What it throws otherwise is not heed's: std::bad_alloc, and what the
// caller's functions and executors throw (a heed::error of theirs arrives as a new one, with its text).
struct failure {
  heed::detail::problem_text text;  // empty: all is well
  bool not_converged = false;

  HEED_INLINE failure() { text[0] = 0; }
  HEED_INLINE bool any() const { return text[0] != 0; }
  // Fails as this translation unit does.
  HEED_INLINE void raise() const {
    if (!any()) return;
    if (not_converged) heed::detail::fail_to_converge(text.data());
    heed::detail::fail(text.data());
  }
};

// A verb: describes the call in `out`, or runs it where that is null.
template <class Request> using verb = void (*)(const Request&, const context&, plan* out, failure&);

// A prepared call, which the library makes, runs (on the memory of the run before where `on` is null) and destroys.
template <class Request, class Rows> struct prepared_verb {
  void* (*make)(const Request&, const context&, failure&);
  void (*run)(void*, const Rows* on, failure&);
  void (*destroy)(void*);
};

template <class T> struct softmax_forward {
  dispatch::rows rows;
  const softmax::options<T>& options;
};
template <class T> struct softmax_backward {
  dispatch::rows rows;
  tensor dout;
  const softmax::gradients<T>& wanted;
  const softmax::options<T>& options;
};
template <class T> struct softmax_decode {
  cached_rows rows;
  const softmax::options<T>& options;
};
template <class T> struct softmax_merge {
  tensor_view<T, 4> o;
  tensor_view<T, 3> lse;
  tensor_view<const T, 4> part;
  tensor_view<const T, 3> part_lse;
  double log_weight;
};
template <class T> struct mixture_forward {
  dispatch::rows rows;
  tensor_view<const T, 3> gates;
  const mixture_of_head::options<T>& options;
};
template <class T> struct mixture_backward {
  dispatch::rows rows;
  tensor_view<const T, 3> gates;
  tensor dout;
  const mixture_of_head::gradients<T>& wanted;
  const mixture_of_head::options<T>& options;
};
template <class T> struct mixture_decode {
  cached_rows rows;
  tensor_view<const T, 3> gates;
  const mixture_of_head::options<T>& options;
};
template <class T> struct local_linear_forward {
  dispatch::rows rows;
  const per_head& ridge;
  const local_linear::options<T>& options;
};
template <class T> struct local_linear_apply {
  dispatch::rows rows;
  tensor_view<const T, 4> slope;
  const local_linear::options<T>& options;
};
template <class T> struct local_linear_backward {
  dispatch::rows rows;  // dout in place of o
  const per_head& ridge;
  const local_linear::gradients<T>& wanted;
  const local_linear::options<T>& options;
};
template <class T> struct local_linear_decode {
  cached_rows rows;
  const per_head& ridge;
  const local_linear::options<T>& options;
};
template <class T> struct linear_forward {
  dispatch::rows rows;
  const linear::options<T>& options;
};
template <class T> struct linear_backward {
  dispatch::rows rows;
  tensor dout;
  const linear::gradients<T>& wanted;
  const linear::options<T>& options;
};
template <class T> struct linear_decode {
  dispatch::rows rows;
  const state_view<T>& memory;
  const linear::options<T>& options;
};
template <class T> struct lightning_forward {
  dispatch::rows rows;
  const heed::decay<T>& decay;
  const lightning::options<T>& options;
};
template <class T> struct lightning_backward {
  dispatch::rows rows;  // dout in place of o
  const heed::decay<T>& decay;
  const lightning::gradients<T>& wanted;
  const lightning::options<T>& options;
};
template <class T> struct lightning_decode {
  dispatch::rows rows;
  const heed::decay<T>& decay;
  const state_view<T>& memory;
  const lightning::options<T>& options;
};

// New tokens of one head for rows of a cache that follow one another
struct append {
  tensor x;
  index_t batch, head, first, count;
  void* to;
  storage to_element;
  float* scale;  // of these rows, null but for std::int8_t
};

template <class T> struct verbs {
  verb<dispatch::softmax_forward<T>> softmax_forward;
  verb<dispatch::softmax_backward<T>> softmax_backward;
  verb<dispatch::softmax_decode<T>> softmax_decode;
  verb<dispatch::softmax_merge<T>> softmax_merge;
  prepared_verb<dispatch::softmax_forward<T>, rows> prepared_softmax_forward;
  prepared_verb<dispatch::softmax_decode<T>, query_rows> prepared_softmax_decode;
  verb<dispatch::mixture_forward<T>> mixture_forward;
  verb<dispatch::mixture_backward<T>> mixture_backward;
  verb<dispatch::mixture_decode<T>> mixture_decode;
  verb<dispatch::local_linear_forward<T>> local_linear_forward;
  verb<dispatch::local_linear_apply<T>> local_linear_apply;
  verb<dispatch::local_linear_backward<T>> local_linear_backward;
  verb<dispatch::local_linear_decode<T>> local_linear_decode;
  verb<dispatch::linear_forward<T>> linear_forward;
  verb<dispatch::linear_backward<T>> linear_backward;
  verb<dispatch::linear_decode<T>> linear_decode;
  verb<dispatch::lightning_forward<T>> lightning_forward;
  verb<dispatch::lightning_backward<T>> lightning_backward;
  verb<dispatch::lightning_decode<T>> lightning_decode;
  verb<dispatch::append> append;
};

struct convert {
  tensor from, to;
};
struct quantize {
  tensor x;
  tensor_view<std::int8_t, 4> q8;
  tensor_view<float, 3> scale;
};
struct dequantize {
  tensor x;
  tensor_view<const std::int8_t, 4> q8;
  tensor_view<const float, 3> scale;
};

// Verbs that sum nothing
template <> struct verbs<void> {
  verb<dispatch::convert> convert;
  verb<dispatch::quantize> quantize;
  verb<dispatch::dequantize> dequantize;
};

inline namespace HEED_ABI {

// The table of the level that runs here. Defined in the library.
template <class T> const verbs<T>& chosen() noexcept;
template <> HEED_EXPORT const verbs<float>& chosen<float>() noexcept;
template <> HEED_EXPORT const verbs<double>& chosen<double>() noexcept;
template <> HEED_EXPORT const verbs<void>& chosen<void>() noexcept;

}  // namespace HEED_ABI

}  // namespace heed::dispatch
