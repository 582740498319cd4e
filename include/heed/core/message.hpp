// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Error texts without allocation: words and numbers written into the fixed text of a plan, cut where it ends.

#include <array>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <system_error>

#include "heed/core/config.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"

namespace heed::detail {
inline namespace HEED_ISA {

class message {
 public:
  template <std::size_t Size>
  explicit message(std::array<char, Size>& out) noexcept : at_(out.data()), end_(out.data() + Size - 1) {
    *at_ = 0;
  }

  message& operator<<(const char* text) noexcept {
    while (*text != 0 && at_ != end_) *at_++ = *text++;
    *at_ = 0;
    return *this;
  }
  template <std::integral Number> message& operator<<(Number number) noexcept {
    return digits(static_cast<long long>(number));
  }
  message& operator<<(double number) noexcept { return digits(number); }  // shortest text that reads back the same

 private:
  template <class Number> message& digits(Number number) noexcept {
    char text[32];  // the longest double takes 24
    const std::to_chars_result written = std::to_chars(text, text + sizeof text - 1, number);
    *written.ptr = 0;
    return *this << text;
  }

  char* at_;
  char* end_;  // keeps the last byte for the final zero
};

// write(p.problem, "k has ", m, " keys, v has ", n)
template <class... Parts> void write(problem_text& out, Parts... parts) noexcept {
  message text(out);
  (text << ... << parts);
}

// The same as the text of an error.
template <class First, class... Parts>
[[noreturn]] HEED_NOINLINE void fail(const char* text, First first, Parts... parts) {
  problem_text problem;
  write(problem, text, first, parts...);
  fail(problem.data());
}

}  // namespace HEED_ISA
}  // namespace heed::detail
