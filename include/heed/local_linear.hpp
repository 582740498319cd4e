// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/backward.hpp"
#include "heed/local_linear/decode.hpp"
#include "heed/local_linear/forward.hpp"
#include "heed/local_linear/options.hpp"
