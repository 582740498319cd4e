// SPDX-License-Identifier: BSD-3-Clause
#ifdef WINDOWS_MACROS  // of windows.h and what it includes, without min and max (NOMINMAX)
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include <xsimd/xsimd.hpp>
#define far
#define near
#define small char
#define hyper __int64
#define interface struct
#define pascal __stdcall
#define cdecl __cdecl
#define IN
#define OUT
#define OPTIONAL
#define ERROR 0
#define DELETE 0x00010000L
#define CONST const
#define VOID void
#define TRUE 1
#define FALSE 0
#define NO_ERROR 0L
#endif

#include "every_verb.hpp"

bool use(const void* of_float, const void* of_double);
bool use(const void* of_float, const void* of_double) {
  return every_verb<float>::use(*static_cast<const every_verb<float>*>(of_float)) &&
         every_verb<double>::use(*static_cast<const every_verb<double>*>(of_double));
}
