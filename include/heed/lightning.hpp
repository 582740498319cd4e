// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/plan.hpp"
#include "heed/lightning/backward.hpp"
#include "heed/lightning/decode.hpp"
#include "heed/lightning/forward.hpp"
#include "heed/lightning/options.hpp"
#include "heed/slopes.hpp"
