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
    .softmax_merge = &answer<T>,
    .prepared_softmax_forward = {&make_prepared<T>, &run_kept<rows>, &destroy_kept<rows>},
    .prepared_softmax_decode = {&make_prepared<T>, &run_kept<query_rows>, &destroy_kept<query_rows>},
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
    .append = &answer<T>,
};

extern const verbs<float> of_float;
extern const verbs<double> of_double;
extern const verbs<void> of_any;
const verbs<float> of_float = table<float>;
const verbs<double> of_double = table<double>;
const verbs<void> of_any{.convert = &answer, .quantize = &answer, .dequantize = &answer};

}  // namespace heed::dispatch::HEED_DISPATCH_LEVEL
