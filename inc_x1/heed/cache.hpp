// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/cache/contiguous.hpp"
#include "heed/cache/paged.hpp"
#include "heed/cache/ring.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/kv_cache.hpp"
