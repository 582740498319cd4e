// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the compiled library offers for a number type that calls sum in: one table of functions per level.

#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/dispatch/rows.hpp"
#include "heed/softmax/options.hpp"

namespace heed::dispatch {

// A verb: describes the call in `out`, or runs it where that is null; what is wrong goes into `problem`, empty before.
template <class Request> using verb = void (*)(const Request&, const context&, plan* out, heed::detail::problem_text&);

template <class T> struct softmax_forward {
  dispatch::rows rows;
  const softmax::options<T>& options;
};

template <class T> struct verbs {
  dispatch::verb<dispatch::softmax_forward<T>> softmax_forward;
};

// The table of the level that runs here. Defined in the library, for float and double.
template <class T> const verbs<T>& chosen() noexcept;
template <> const verbs<float>& chosen<float>() noexcept;
template <> const verbs<double>& chosen<double>() noexcept;

}  // namespace heed::dispatch
