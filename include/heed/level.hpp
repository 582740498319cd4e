// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/config.hpp"

namespace heed {

#if defined(HEED_DISPATCH) || defined(HEED_DISPATCH_LEVEL)
inline namespace HEED_ABI {

// Returns the level that calls run on: "sse2", "avx2", "avx512", "avx512_bf16" (AVX-512 with bf16 dot products or AMX)
// or "neon": the highest of this machine, or what HEED_LEVEL in the environment caps it to.
HEED_EXPORT const char* level() noexcept;

}  // namespace HEED_ABI
#else

// Returns the level that this translation unit is compiled for. With heed::dispatch it is chosen when a program runs.
HEED_INLINE const char* level() noexcept { return HEED_NAME(HEED_LEVEL); }

#endif

}  // namespace heed
