// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/plan.hpp"
#include "heed/mixture_of_head/backward.hpp"
#include "heed/mixture_of_head/decode.hpp"
#include "heed/mixture_of_head/forward.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/mixture_of_head/router.hpp"
