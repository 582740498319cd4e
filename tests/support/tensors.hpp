// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/view.hpp"

namespace heed_test {

template <class T> using input = heed::tensor_view<const T, 4>;
template <class T> using output = heed::tensor_view<T, 4>;

}  // namespace heed_test
