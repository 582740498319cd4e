// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Eigen without the warnings that GCC 12 raises, falsely, out of its own AVX-512 intrinsics.

#include "heed/core/config.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
