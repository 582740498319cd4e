// SPDX-License-Identifier: BSD-3-Clause
// The macro that once let it through
// flags: -ffast-math -DHEED_ALLOW_FAST_MATH
// says: give -fno-finite-math-only
#include "heed/core/config.hpp"
