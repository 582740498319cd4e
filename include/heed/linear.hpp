// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/context.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/plan.hpp"
#include "heed/linear/backward.hpp"
#include "heed/linear/decode.hpp"
#include "heed/linear/forward.hpp"
#include "heed/linear/options.hpp"
