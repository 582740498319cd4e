// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/softmax.hpp"
#include "heed/sparse_query/choose_heads.hpp"
