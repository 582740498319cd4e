// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A good call that a test bends, and what must hold of a refused one: forward throws before it writes, the text names
// the argument and the numbers, and plan_forward says the same without throwing.

#include <algorithm>
#include <cctype>
#include <functional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"

namespace heed_test {

struct call {
  explicit call(const shape& s) : x(s) {}
  softmax_case<float> x;
  input<float> q = x.q.cview(), k = x.k.cview(), v = x.v.cview();
  output<float> o = x.o.view();
  heed::softmax::options<float> options = x.options;
};

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

// bend(call) makes the call bad; the message must hold every word of `must`.
inline void refused(const shape& good, const char* what, const std::vector<std::string>& must,
                    const std::function<void(call&)>& bend) {
  call c(good);
  bend(c);
  const heed::plan plan = run_plan<float>(c.q, c.k, c.v, c.o, c.options, {});
  const std::string text = thrown_by([&] { run_forward<float>(c.q, c.k, c.v, c.o, c.options, {}); });
  INFO(what << ": " << text);
  CHECK_FALSE(plan.ok());
  CHECK(text == plan.problem.data());
  CHECK((c.x.o.untouched() && c.x.lse.untouched()));
  const std::vector<std::string> said = words(text);
  for (const std::string& word : must) {
    INFO("must say " << word);
    CHECK(std::find(said.begin(), said.end(), word) != said.end());
  }
}

inline void accepted(const shape& good, const char* what, const std::function<void(call&)>& bend) {
  call c(good);
  bend(c);
  INFO(what);
  const std::string text = thrown_by([&] { run_forward<float>(c.q, c.k, c.v, c.o, c.options, {}); });
  CHECK(text.empty());
  CHECK(run_plan<float>(c.q, c.k, c.v, c.o, c.options, {}).ok());
}

}  // namespace heed_test
