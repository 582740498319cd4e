// SPDX-License-Identifier: BSD-3-Clause
// The default of g++ 12; one error, see flags.sh.
// flags: -std=c++17
// says: needs C++20: compile with -std=c++20
#include "heed/heed.hpp"
