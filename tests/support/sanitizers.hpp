// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// HEED_TEST_SANITIZED: the address or the thread sanitizer watches, of g++ or clang.

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HEED_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HEED_TEST_SANITIZED 1
#endif
#endif
