// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the cases of all golden files have: q, k and v, expected outputs with their tolerance, a mask and an alignment.

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "support/golden.hpp"

namespace heed_test {

// An output as the file has it. allowed: the largest difference, for float by the rule of the golden files; double
// differs from them by rounding alone.
struct golden_output {
  golden_tensor<double> values;
  double allowed = 0;

  template <class T> void allow(double naive_error) {
    double largest = 0;
    for (const double value : values.data)
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    allowed = std::is_same_v<T, double> ? 1e-12 * std::max(1.0, largest) : std::max(2 * naive_error, 1e-5 * largest);
  }
  // The largest error in units of what is allowed; equal infinities have none, a NaN or another size has no bound.
  template <class T> double error_of(const golden_tensor<T>& got) const {
    double worst = got.data.size() == values.data.size() ? 0 : HUGE_VAL;
    for (std::size_t i = 0; worst < HUGE_VAL && i < values.data.size(); ++i) {
      const double x = static_cast<double>(got.data[i]), y = values.data[i];
      if (x == y) continue;
      const double error = std::abs(x - y) / allowed;
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
    return worst;
  }
  template <class T> bool right(const golden_tensor<T>& got) const { return error_of(got) <= 1; }
};

template <class T> class golden_case {
 public:
  golden_tensor<T> q, k, v;

  golden_case(const golden_case&) = delete;
  golden_case& operator=(const golden_case&) = delete;

 protected:
  golden_case(const golden_file& file, const std::string& name) : file_(file), at_(name + "/") {
    q = file.tensor<T>(at_ + "q"), k = file.tensor<T>(at_ + "k"), v = file.tensor<T>(at_ + "v");
  }

  bool has(const std::string& key) const { return file_.has(at_ + key); }
  double number(const std::string& key, double missing = 0) const { return file_.number(at_ + key, missing); }
  std::string text(const std::string& key) const { return file_.text(at_ + key); }
  template <class X = T> golden_tensor<X> tensor(const std::string& key) const { return file_.tensor<X>(at_ + key); }

  // The output of this name; `got`, for the call to write, gets its shape and NaN everywhere.
  golden_output expect(const std::string& key, golden_tensor<T>& got) const {
    golden_output x{tensor<double>(key)};
    x.allow<T>(number("naive_f32_error_" + key));
    got.shape = x.values.shape;
    got.data.assign(x.values.data.size(), std::numeric_limits<T>::quiet_NaN());
    return x;
  }

  // Calls add(input) for the inputs that the case names; it returns false for those that it does not know, which must
  // be q, k, v, gradients or `elsewhere`.
  template <class Add> void each_input(const std::vector<std::string>& elsewhere, const Add& add) const {
    for (const std::string& input : file_.words(at_ + "inputs")) {
      const bool common = input == "q" || input == "k" || input == "v" || input.starts_with("d");
      if (!common && !add(input) && std::find(elsewhere.begin(), elsewhere.end(), input) == elsewhere.end())
        throw std::runtime_error(at_ + input + ": an input that no test knows");
    }
  }

  heed::mask causal_and_window(bool causal) const {
    const auto whole = [&](const char* key) { return static_cast<heed::index_t>(number(key, -1)); };
    heed::mask all;
    if (causal && number("causal") != 0) all = heed::causal();
    if (whole("left") >= 0 || whole("right") >= 0) all = all & heed::window(whole("left"), whole("right"));
    return all;
  }
  // The alignment of a case, which must be one of these
  void aligned(std::initializer_list<const char*> known) const {
    if (std::find(known.begin(), known.end(), text("align")) == known.end())
      throw std::runtime_error(at_ + ": an alignment that no test knows: " + text("align"));
  }

 private:
  const golden_file& file_;
  std::string at_;
};

}  // namespace heed_test
