// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of local_linear.safetensors as a call: tensors, options, and the expected outputs. Where the file gives the
// slopes (given_y) they are an input, for apply; else an output of forward.

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>

#include "heed/core/factories.hpp"
#include "heed/local_linear/options.hpp"
#include "support/golden_case.hpp"

namespace heed_test {

template <class T> class golden_local_linear : public golden_case<T> {
 public:
  golden_local_linear(const golden_file& file, const std::string& name)
      : golden_case<T>(file, name), given(this->number("given_y") != 0) {
    o_ = this->expect("o", got_o), lse_ = this->expect("lse", got_lse);
    if (!given) {
      slope_ = this->expect("y", got_slope);
      options.slope = got_slope.template view<4>();
      ridge = this->tensor("ridge");
    }
    this->each_input({"ridge"}, [&](const std::string& input) {
      if (input == "lengths") lengths_ = this->template tensor<std::int32_t>(input);
      if (input == "y") slope = this->tensor(input);
      return input == "lengths" || input == "y";
    });
    options.mask = this->causal_and_window(true);
    if (!lengths_.data.empty()) options.mask = options.mask & heed::key_lengths(lengths_.data);
    this->aligned({"bottom_right", "top_left"});
    if (this->text("align") == "top_left") options.align = heed::top_left;
    options.scale = this->number("scale");
    options.lse = got_lse.template view<3>();
    options.tolerance = std::is_same_v<T, double> ? 1e-13 : 1e-6;
  }

  bool given;                                                // the slopes, which are then in `slope`
  golden_tensor<T> ridge, slope, got_o, got_lse, got_slope;  // the call writes got_*
  heed::local_linear::options<T> options;

  // The largest error of what the call wrote, in units of what is allowed.
  double error() const {
    const double of_outputs = std::max(o_.error_of(got_o), lse_.error_of(got_lse));
    return given ? of_outputs : std::max(of_outputs, slope_.error_of(got_slope));
  }

 private:
  golden_output o_, lse_, slope_;
  golden_tensor<std::int32_t> lengths_;
};

}  // namespace heed_test
