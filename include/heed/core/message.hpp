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

// A word or number of a message; 16 bytes, because every check has a few of them in its code
class part {
 public:
  HEED_INLINE part(const char* text) noexcept : text_(text), kind_(kind::text) {}
  template <std::integral Number>
  HEED_INLINE part(Number number) noexcept : integer_(static_cast<long long>(number)), kind_(kind::integer) {}
  HEED_INLINE part(double number) noexcept : real_(number), kind_(kind::real) {}

  void add_to(message& out) const noexcept {
    if (kind_ == kind::text)
      out << text_;
    else if (kind_ == kind::integer)
      out << integer_;
    else
      out << real_;
  }

 private:
  enum class kind : int { text, integer, real };
  union {
    const char* text_;
    long long integer_;
    double real_;
  };
  kind kind_;
};

// write(p.problem, "k has ", m, " keys, v has ", n)
HEED_NOINLINE inline void write_parts(problem_text& out, const part* parts, std::size_t count) noexcept {
  message text(out);
  for (std::size_t i = 0; i < count; ++i) parts[i].add_to(text);
}
template <class... Parts> HEED_INLINE void write(problem_text& out, Parts... parts) noexcept {
  const part list[] = {part(parts)...};
  write_parts(out, list, sizeof...(parts));
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
