// SPDX-License-Identifier: BSD-3-Clause
// flags: -ffast-math
// says: masks rely on infinities
#include "heed/core/config.hpp"
