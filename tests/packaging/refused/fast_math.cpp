// SPDX-License-Identifier: BSD-3-Clause
// flags: -ffast-math
// says: give -fno-finite-math-only
#include "heed/core/config.hpp"
