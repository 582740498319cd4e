// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The single place of the version: CMake reads these three lines.
#define HEED_VERSION_MAJOR 0
#define HEED_VERSION_MINOR 2
#define HEED_VERSION_PATCH 0
