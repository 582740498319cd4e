// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Four vectors handed to a verb as they are: each is one row.

#include <span>
#include <string>
#include <vector>

#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/types.hpp"

namespace heed_test {

// q and k of so many elements, v and o of so many: the text of the error, "" for none, or what forward and the plan
// differ in. Compiled in a run.cpp.
std::string run_softmax_vectors(heed::index_t dim, heed::index_t value_dim);
std::string run_linear_vectors(heed::index_t dim, heed::index_t value_dim);
std::string run_lightning_vectors(heed::index_t dim, heed::index_t value_dim);
std::string run_local_linear_vectors(heed::index_t dim, heed::index_t value_dim);
std::string run_mixture_vectors(heed::index_t dim, heed::index_t value_dim);

// forward, plan (q, k, v, o): o is a span in forward, a vector in the plan
template <class Forward, class Plan>
std::string said_of_vectors(heed::index_t dim, heed::index_t value_dim, Forward forward, Plan plan) {
  const auto d = static_cast<std::size_t>(dim), e = static_cast<std::size_t>(value_dim);
  const std::vector<float> q(d, 0.01f), k(d, 0.02f), v(e, 3);
  std::vector<float> o(e, 77);
  std::string text;
  try {
    forward(q, std::span<const float>(k), v, std::span<float>(o));
  } catch (const heed::error& refused) {
    text = refused.what();
  }
  if (text != plan(q, k, v, o).problem.data()) return "the plan says something else than " + text;
  for (const float x : o)
    if ((x == 77) != !text.empty()) return "written and refused, or not written and not refused";
  return text;
}

// What must hold of every kernel; what is wrong, or nothing
inline std::string wrong_with_vectors(std::string (*run)(heed::index_t, heed::index_t)) {
  const auto holds = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  std::string wrong;
  if (const std::string text = run(1024, 1024); !text.empty()) wrong += "one row is refused: " + text;
  for (const heed::index_t dim : {4, 1025, 30000})
    for (const heed::index_t value_dim : {4, 1025, 30000}) {
      const std::string text = run(dim, value_dim);
      const std::string name = dim > 1024 ? "q has one axis of " : "v has one axis of ";
      const bool too_long = dim > 1024 || value_dim > 1024;
      const std::string number = std::to_string(dim > 1024 ? dim : value_dim);
      const bool says_it = holds(text, name + number) && holds(text, "1024") && holds(text, "bhsd()");
      const bool right = too_long ? says_it : text.empty();
      if (!right) wrong += std::to_string(dim) + ", " + std::to_string(value_dim) + ": " + text + "; ";
    }
  return wrong;
}

}  // namespace heed_test
