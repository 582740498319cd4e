// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A good decode that a test bends, and what must hold of a refused one: decode throws before it writes, the text names
// the argument and the numbers, and plan_decode says the same without throwing.

#include <algorithm>
#include <cctype>
#include <functional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "support/decode_case.hpp"
#include "support/messages.hpp"

namespace heed_test {

template <class C> struct decode_to_bend {
  decode_case<float>& x;
  input<float> q;
  heed::kv_cache_view<C> cache;
  output<float> o;
  heed::softmax::options<float> options;

  explicit decode_to_bend(decode_case<float>& from)
      : x(from),
        q(std::get<input<float>>(from.stored_q.cview())),
        cache(std::get<heed::kv_cache_view<C>>(from.cache())),
        o(std::get<output<float>>(from.stored_o.view())),
        options(from.options) {}
  decode_call<float> call() const { return {q, cache, o}; }
};

template <class C> using bending = std::function<void(decode_to_bend<C>&)>;

// Whether a text has a number or a name among its words; names also as parts of words ("length" in "lengths")
inline bool mentions(const std::string& text, const std::string& what) {
  const std::vector<std::string> all = words(text);
  if (std::isalpha(static_cast<unsigned char>(what[0])) != 0) return text.find(what) != std::string::npos;
  return std::find(all.begin(), all.end(), what) != all.end();
}

// bend(call) makes the call bad; run and plan are those of a kernel.
template <class C, class Run, class Plan>
void refused_by(const Run& run, const Plan& plan, const decode_problem& good, const std::vector<std::string>& must,
                const bending<C>& bend) {
  decode_case<float> x(good);
  decode_to_bend<C> c(x);
  bend(c);
  const heed::plan would = plan(c);
  const std::string text = thrown_by([&] { run(c); });
  INFO(to_string(good) << ": " << text);
  CHECK_FALSE(text.empty());
  CHECK(text == would.problem.data());
  CHECK(x.untouched());
  for (const std::string& word : must) {
    INFO("must say " << word);
    CHECK(mentions(text, word));
  }
}

template <class C = float>
void refused_decode(const decode_problem& good, const std::vector<std::string>& must,
                    const std::type_identity_t<bending<C>>& bend) {
  refused_by<C>([](const auto& c) { run_decode<float>(c.call(), c.options, {}); },
                [](const auto& c) { return plan_decode<float>(c.call(), c.options, {}); }, good, must, bend);
}
template <class C = float>
void accepted_decode(const decode_problem& good, const std::type_identity_t<bending<C>>& bend) {
  decode_case<float> x(good);
  decode_to_bend<C> c(x);
  bend(c);
  INFO(to_string(good));
  CHECK(thrown_by([&] { run_decode<float>(c.call(), c.options, {}); }) == "");
  CHECK(plan_decode<float>(c.call(), c.options, {}).ok());
}

}  // namespace heed_test
