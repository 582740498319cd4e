// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of local_linear.safetensors as a call: tensors, options, and the expected outputs. Where the file gives the
// slopes (given_y) they are an input, for apply; else an output of forward.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/mask.hpp"
#include "heed/local_linear/options.hpp"
#include "support/golden.hpp"

namespace heed_test {

template <class T> class golden_local_linear {
 public:
  golden_local_linear(const golden_file& file, const std::string& name)
      : given(file.number(name + "/given_y") != 0), at_(name + "/") {
    q = file.tensor<T>(at_ + "q");
    k = file.tensor<T>(at_ + "k");
    v = file.tensor<T>(at_ + "v");
    o_ = expect(file, "o", got_o);
    lse_ = expect(file, "lse", got_lse);
    if (!given) {
      slope_ = expect(file, "y", got_slope);
      options.slope = got_slope.template view<4>();
      ridge = file.tensor<T>(at_ + "ridge");
    }
    for (const std::string& input : file.words(at_ + "inputs")) add(file, input);
    const auto whole = [&](const char* key) { return static_cast<heed::index_t>(file.number(at_ + key, -1)); };
    if (file.number(at_ + "causal") != 0) see(heed::causal());
    if (whole("left") >= 0 || whole("right") >= 0) see(heed::window(whole("left"), whole("right")));
    const std::string align = file.text(at_ + "align");
    if (align != "bottom_right" && align != "top_left") throw std::runtime_error(at_ + ": unknown alignment " + align);
    options.align = align == "top_left" ? heed::top_left : heed::bottom_right;
    options.scale = file.number(at_ + "scale");
    options.lse = got_lse.template view<3>();
    options.tolerance = std::is_same_v<T, double> ? 1e-13 : 1e-6;
  }
  golden_local_linear(const golden_local_linear&) = delete;
  golden_local_linear& operator=(const golden_local_linear&) = delete;

  bool given;                                                         // the slopes, which are then in `slope`
  golden_tensor<T> q, k, v, ridge, slope, got_o, got_lse, got_slope;  // the call writes got_*
  heed::local_linear::options<T> options;

  // The largest error of what the call wrote, in units of what is allowed.
  double error() const {
    const double of_outputs = std::max(distance(got_o, o_), distance(got_lse, lse_));
    return given ? of_outputs : std::max(of_outputs, distance(got_slope, slope_));
  }

 private:
  struct expected {
    golden_tensor<double> value;
    double allowed = 0;
  };

  void see(const heed::mask& more) { options.mask = options.mask & more; }

  // The rule of the golden files for float; double differs from them by rounding alone.
  expected expect(const golden_file& file, const char* name, golden_tensor<T>& got) const {
    expected x{file.tensor<double>(at_ + name)};
    double largest = 0;
    for (const double value : x.value.data)
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    x.allowed = std::is_same_v<T, double> ? 1e-12 * std::max(1.0, largest)
                                          : std::max(2 * file.number(at_ + "naive_f32_error_" + name), 1e-5 * largest);
    got.shape = x.value.shape;
    got.data.assign(x.value.data.size(), std::numeric_limits<T>::quiet_NaN());
    return x;
  }

  void add(const golden_file& file, const std::string& input) {
    if (input == "lengths") {
      lengths_ = file.tensor<std::int32_t>(at_ + input);
      see(heed::key_lengths(lengths_.data));
    } else if (input == "y") {
      slope = file.tensor<T>(at_ + input);
    } else if (input != "q" && input != "k" && input != "v" && input != "ridge" && input != "dout") {
      throw std::runtime_error(at_ + input + ": an input that no test knows");
    }
  }

  static double distance(const golden_tensor<T>& got, const expected& x) {
    double worst = 0;
    for (std::size_t i = 0; i < x.value.data.size(); ++i) {
      const double a = static_cast<double>(got.data[i]), b = x.value.data[i];
      if (a == b) continue;
      const double error = std::abs(a - b) / x.allowed;
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
    return worst;
  }

  std::string at_;
  expected o_, lse_, slope_;
  golden_tensor<std::int32_t> lengths_;
};

}  // namespace heed_test
