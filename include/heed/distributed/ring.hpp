// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention over a sequence that is cut among ranks: keys and values go round (ring attention).

#include "heed/distributed/network.hpp"
#include "heed/distributed/options.hpp"
#include "heed/distributed/schedule.hpp"
#include "heed/distributed/softmax_backward.hpp"
#include "heed/distributed/softmax_forward.hpp"
