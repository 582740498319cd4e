// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What error texts say.

#include <cctype>
#include <functional>
#include <string>
#include <vector>

#include "heed/core/error.hpp"

namespace heed_test {

// Names and numbers of a text, "-2" and "nan" among them.
inline std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> all(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
    const bool sign =
        text[i] == '-' && i + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[i + 1])) != 0;
    if (is_word(text[i]) || sign)
      all.back() += text[i];
    else if (!all.back().empty())
      all.emplace_back();
  }
  return all;
}

inline std::string thrown_by(const std::function<void()>& f) {
  try {
    f();
  } catch (const heed::error& e) {
    return e.what();
  }
  return "";
}

}  // namespace heed_test
