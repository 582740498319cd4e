// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A good call that a test bends, and what must hold of a refused one: forward throws before it writes, the text names
// the argument and the numbers, and plan_forward says the same without throwing.

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/messages.hpp"
#include "support/softmax_case.hpp"

namespace heed_test {

struct call {
  explicit call(const shape& s) : x(s) {}
  softmax_case<float> x;
  input<float> q = x.q.cview(), k = x.k.cview(), v = x.v.cview();
  output<float> o = x.o.view();
  heed::softmax::options<float> options = x.options;
};

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
