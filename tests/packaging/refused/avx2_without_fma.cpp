// SPDX-License-Identifier: BSD-3-Clause
// flags: -mavx2
// says: AVX2 without FMA
#include "heed/core/config.hpp"
