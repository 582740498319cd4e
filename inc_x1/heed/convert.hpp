// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/convert/quantize.hpp"
#include "heed/convert/tensor.hpp"
#include "heed/core/context.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/plan.hpp"
