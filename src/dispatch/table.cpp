// SPDX-License-Identifier: BSD-3-Clause

// The table of one level.

#include "heed/dispatch/verbs.hpp"
#include "level.hpp"

namespace heed::dispatch::HEED_DISPATCH_LEVEL {

template <class T>
constexpr verbs<T> table{
    .softmax_forward = &answer<T>,
    .softmax_backward = &answer<T>,
    .softmax_decode = &answer<T>,
    .mixture_forward = &answer<T>,
    .mixture_backward = &answer<T>,
    .mixture_decode = &answer<T>,
    .local_linear_forward = &answer<T>,
    .local_linear_apply = &answer<T>,
    .local_linear_backward = &answer<T>,
    .local_linear_decode = &answer<T>,
    .linear_forward = &answer<T>,
    .linear_backward = &answer<T>,
    .linear_decode = &answer<T>,
    .lightning_forward = &answer<T>,
    .lightning_backward = &answer<T>,
    .lightning_decode = &answer<T>,
};

extern const verbs<float> of_float;
extern const verbs<double> of_double;
const verbs<float> of_float = table<float>;
const verbs<double> of_double = table<double>;

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
