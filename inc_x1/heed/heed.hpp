// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Every kernel, caches, and convert. The references (heed/reference/) and executors (heed/interop/) are included by
// name.

#include "heed/cache.hpp"
#include "heed/convert.hpp"
#include "heed/lightning.hpp"
#include "heed/linear.hpp"
#include "heed/local_linear.hpp"
#include "heed/mixture_of_head.hpp"
#include "heed/slopes.hpp"
#include "heed/softmax.hpp"
#include "heed/sparse_query.hpp"
#include "heed/version.hpp"
