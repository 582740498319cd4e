// SPDX-License-Identifier: BSD-3-Clause
// flags: -ffinite-math-only
// says: give -fno-finite-math-only
#include "heed/core/config.hpp"
