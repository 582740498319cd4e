// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What must hold of a refused call: it throws before it writes, the text holds the words that it must, and the plan
// says the same without throwing.

#include <algorithm>
#include <array>
#include <cctype>
#include <functional>
#include <string>
#include <vector>

#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/view.hpp"
#include "support/catch.hpp"

namespace heed_test {

// Names and numbers of a text, "-2" and "nan" among them.
inline bool says(const std::string& text, const std::string& word) {
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.'; };
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]) || text[end] == '.'))
      return true;
  }
  return false;
}

inline std::string text_of_error(const std::function<void()>& f) {
  try {
    f();
  } catch (const heed::error& e) {
    return e.what();
  }
  return "";
}

inline void check_refusal(const char* what, const heed::plan& plan, const std::function<void()>& call,
                          const std::vector<std::string>& must) {
  const std::string text = text_of_error(call);
  INFO(what << ": " << text);
  CHECK_FALSE(plan.ok());
  CHECK(text == plan.problem.data());
  for (const std::string& word : must) {
    INFO("must say " << word);
    CHECK(says(text, word));
  }
}

// x with another extent, or another place in memory
template <class T, int Rank>
heed::tensor_view<T, Rank> with(const heed::tensor_view<T, Rank>& x, int axis, heed::index_t extent) {
  std::array<heed::index_t, static_cast<std::size_t>(Rank)> n{}, s{};
  for (int a = 0; a < Rank; ++a) {
    n[static_cast<std::size_t>(a)] = a == axis ? extent : x.extent(a);
    s[static_cast<std::size_t>(a)] = x.stride(a);
  }
  return {x.data(), n, s};
}
template <class T, int Rank> heed::tensor_view<T, Rank> at(const heed::tensor_view<T, Rank>& x, T* data) {
  std::array<heed::index_t, static_cast<std::size_t>(Rank)> n{}, s{};
  for (int a = 0; a < Rank; ++a) {
    n[static_cast<std::size_t>(a)] = x.extent(a);
    s[static_cast<std::size_t>(a)] = x.stride(a);
  }
  return {data, n, s};
}
// every other element of the last axis
template <class T> heed::tensor_view<T, 4> strided(const heed::tensor_view<T, 4>& x) {
  return {
      x.data(), {x.extent(0), x.extent(1), x.extent(2), x.extent(3) / 2}, {x.stride(0), x.stride(1), x.stride(2), 2}};
}

}  // namespace heed_test
