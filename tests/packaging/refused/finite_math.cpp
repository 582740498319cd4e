// SPDX-License-Identifier: BSD-3-Clause
// flags: -ffinite-math-only
// says: masks rely on infinities
#include "heed/core/config.hpp"
