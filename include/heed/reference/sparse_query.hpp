// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Sparse query attention is softmax attention with other head counts, and so is its reference: heads are mapped there
// in both directions.

#include "heed/reference/softmax.hpp"

namespace heed::reference::sparse_query {

using softmax::backward, softmax::decode, softmax::forward;

}  // namespace heed::reference::sparse_query
