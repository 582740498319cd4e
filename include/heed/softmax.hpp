// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/plan.hpp"
#include "heed/slopes.hpp"
#include "heed/softmax/backward.hpp"
#include "heed/softmax/decode.hpp"
#include "heed/softmax/forward.hpp"
#include "heed/softmax/merge.hpp"
#include "heed/softmax/options.hpp"
#include "heed/softmax/prepare.hpp"
#include "heed/softmax/prepare_decode.hpp"
