// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <stdexcept>
#include <string>

#include "heed/core/config.hpp"

namespace heed {

// A call that cannot be made; thrown before anything is written. The text names the arguments and their numbers.
class error : public std::invalid_argument {
 public:
  HEED_INLINE explicit error(const char* what) : std::invalid_argument(what) {}
  HEED_INLINE explicit error(const std::string& what) : std::invalid_argument(what) {}
};

// local_linear without a report, after its output is written: rows are above the tolerance.
class not_converged : public std::runtime_error {
 public:
  HEED_INLINE explicit not_converged(const char* what) : std::runtime_error(what) {}
  HEED_INLINE explicit not_converged(const std::string& what) : std::runtime_error(what) {}
};

namespace detail {
inline namespace HEED_ISA {

[[noreturn]] HEED_NOINLINE inline void fail(const char* text) {
#if defined(HEED_ON_ERROR)
  HEED_ON_ERROR(text);
  __builtin_unreachable();
#else
  throw error(text);
#endif
}

[[noreturn]] HEED_NOINLINE inline void fail_to_converge(const char* text) {
#if defined(HEED_ON_ERROR)
  HEED_ON_ERROR(text);
  __builtin_unreachable();
#else
  throw not_converged(text);
#endif
}

}  // namespace HEED_ISA
}  // namespace detail
}  // namespace heed
