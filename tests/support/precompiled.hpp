// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What most tests include of others: compiled once, then read by every test that does not depend on the machine.

#include "heed/reference/eigen.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <Eigen/Cholesky>
#include <nlohmann/json.hpp>

#include "support/catch.hpp"
