// SPDX-License-Identifier: BSD-3-Clause
// flags: -ffinite-math-only
// says: masks and empty rows rely on infinities
#include "heed/core/config.hpp"
