// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Texts without allocation: words and numbers written into the fixed text of a plan, cut where it ends.

#include <array>
#include <charconv>
#include <concepts>
#include <cstdarg>
#include <cstddef>
#include <type_traits>

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

  message& operator<<(char letter) noexcept {
    if (at_ != end_) *at_++ = letter;
    *at_ = 0;
    return *this;
  }
  message& operator<<(const char* text) noexcept {
    while (*text != 0) *this << *text++;
    return *this;
  }
  template <std::integral Number> message& operator<<(Number number) noexcept {
    return digits(static_cast<long long>(number));
  }
  message& operator<<(double number) noexcept { return digits(number); }  // shortest text that reads back the same

 private:
  template <class Number> HEED_NOINLINE message& digits(Number number) noexcept {
    char text[32];  // the longest double takes 24
    *std::to_chars(text, text + sizeof text - 1, number).ptr = 0;
    return *this << static_cast<const char*>(text);
  }

  char* at_;
  char* end_;  // keeps the last byte for the final zero
};

// What the values of a text are: 's' words, 'd' numbers with a fraction, 'i' integers
template <class... Values>
inline constexpr char kinds_of[] = {(std::is_convertible_v<Values, const char*> ? 's'
                                     : std::is_floating_point_v<Values>         ? 'd'
                                                                                : 'i')...,
                                    0};
HEED_INLINE const char* passed(const char* text) { return text; }
HEED_INLINE double passed(double number) { return number; }
template <std::integral Number> HEED_INLINE long long passed(Number number) { return static_cast<long long>(number); }

// Writes text with its values in place of each %. One function for all types: checks leave little code that way.
HEED_NOINLINE inline void write_values(problem_text& out, const char* kinds, const char* text,
                                       std::va_list values) noexcept {
  message to(out);
  for (; *text != 0; ++text) {
    if (*text != '%')
      to << *text;
    else if (*kinds == 's')
      to << va_arg(values, const char*), ++kinds;
    else if (*kinds == 'd')
      to << va_arg(values, double), ++kinds;
    else
      to << va_arg(values, long long), ++kinds;
  }
}
HEED_NOINLINE inline void write_passed(problem_text& out, const char* kinds, const char* text, ...) noexcept {
  std::va_list values;
  va_start(values, text);
  write_values(out, kinds, text, values);
  va_end(values);
}

// write(plan.problem, "k has % keys, v has %", m, n)
template <class... Values> HEED_INLINE void write(problem_text& out, const char* text, Values... values) noexcept {
  write_passed(out, kinds_of<Values...>, text, passed(values)...);
}
// The same as the text of an error.
template <class First, class... Values>
[[noreturn]] HEED_NOINLINE void fail(const char* text, First first, Values... values) {
  problem_text problem;
  write(problem, text, first, values...);
  fail(problem.data());
}

}  // namespace HEED_ISA
}  // namespace heed::detail
