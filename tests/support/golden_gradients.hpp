// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The gradients of a golden case: what the loss is (dout, dlse), memory for a call to write its gradients, and what
// they must be.

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "support/golden_case.hpp"

namespace heed_test {

template <class T> class golden_gradients : public golden_case<T> {
 public:
  golden_tensor<T> dout, dlse;  // dlse: no elements where the case has none

  // known: the names of the gradients that the test compares. An unknown one is an error, so that none is forgotten.
  golden_gradients(const golden_file& file, const std::string& name, std::initializer_list<const char*> known)
      : golden_case<T>(file, name) {
    for (const std::string& output : file.words(name + "/outputs")) {
      if (!output.starts_with("d")) continue;
      if (std::find(known.begin(), known.end(), output) == known.end())
        throw std::runtime_error(name + ": a gradient that no test knows: " + output);
      expected_[output] = this->expect(output, got_[output]);
    }
    if (expected_.empty()) return;
    dout = this->tensor("dout");
    if (this->has("dlse")) dlse = this->tensor("dlse");
    if constexpr (std::is_same_v<T, float>) allow_rounding();
  }

  // How many gradients the case has
  int count() const { return static_cast<int>(expected_.size()); }
  bool gives(const std::string& name) const { return expected_.contains(name); }

  // Where a call writes a gradient, null if the case has none of this name
  template <int Rank> heed::tensor_view<T, Rank> view(const std::string& name) {
    return gives(name) ? got_[name].template view<Rank>() : heed::tensor_view<T, Rank>{};
  }
  heed::tensor_view<const T, 3> dlse_view() const {
    return dlse.data.empty() ? heed::tensor_view<const T, 3>{} : dlse.template cview<3>();
  }
  const golden_tensor<T>& got(const std::string& name) const { return got_.at(name); }
  golden_output& expected(const std::string& name) { return expected_.at(name); }

  // The gradients that are wrong, and by how much of what is allowed
  std::string wrong() const {
    std::string text;
    for (const auto& [name, output] : expected_) {
      const double error = output.error_of(got_.at(name));
      if (!(error <= 1)) text += name + " is off by " + std::to_string(error) + " of what is allowed; ";
    }
    return text;
  }

 private:
  // What the rule of the golden files does not know of a backward in float: weights are exp(score - lse) with lse as
  // forward stored it, and so off by half a unit of its last place. And terms that cancel to 0 leave their rounding.
  void allow_rounding() {
    const auto largest = [](const auto& x) {
      double most = 0;
      for (const auto each : x.data)
        if (std::isfinite(each)) most = std::max(most, std::abs(static_cast<double>(each)));
      return most;
    };
    const double unit = static_cast<double>(std::numeric_limits<T>::epsilon()) / 2,
                 of_lse = unit * largest(this->template tensor<double>("lse")),
                 of_terms = 16 * unit * largest(dout) * largest(this->v) * std::max(largest(this->k), largest(this->q));
    for (auto& [name, output] : expected_) {
      const double most = largest(output.values);
      output.allowed += most > 0 ? of_lse * most : of_terms;
    }
  }

  std::map<std::string, golden_output> expected_;
  std::map<std::string, golden_tensor<T>> got_;
};

}  // namespace heed_test
