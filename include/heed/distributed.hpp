// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/distributed/lightning.hpp"
#include "heed/distributed/linear.hpp"
#include "heed/distributed/network.hpp"
#include "heed/distributed/options.hpp"
#include "heed/distributed/ring.hpp"
#include "heed/distributed/schedule.hpp"
#include "heed/distributed/threads.hpp"
#include "heed/lightning.hpp"
#include "heed/linear.hpp"
#include "heed/softmax.hpp"
