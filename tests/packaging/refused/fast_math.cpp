// SPDX-License-Identifier: BSD-3-Clause
// flags: -ffast-math
// says: masks and empty rows rely on infinities
#include "heed/core/config.hpp"
