// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of softmax.safetensors, or of a family with its tensors, as a call: tensors, options, and the expected o and
// lse.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "heed/softmax/options.hpp"
#include "support/golden.hpp"

namespace heed_test {

template <class T> class golden_softmax {
 public:
  golden_softmax(const golden_file& file, const std::string& name) : at_(name + "/") {
    q = file.tensor<T>(at_ + "q");
    k = file.tensor<T>(at_ + "k");
    v = file.tensor<T>(at_ + "v");
    o_ = file.tensor<double>(at_ + "o");
    lse_ = file.tensor<double>(at_ + "lse");
    got_o.shape = o_.shape;
    got_o.data.assign(o_.data.size(), std::numeric_limits<T>::quiet_NaN());
    got_lse.shape = lse_.shape;
    got_lse.data.assign(lse_.data.size(), std::numeric_limits<T>::quiet_NaN());

    for (const std::string& input : file.words(at_ + "inputs")) add(file, input);
    if (file.number(at_ + "causal") != 0 && prefix_.data.empty())
      see(heed::causal());  // prefix_lm is causal beyond the prefix
    const auto whole = [&](const char* key) { return static_cast<heed::index_t>(file.number(at_ + key, -1)); };
    if (whole("left") >= 0 || whole("right") >= 0) see(heed::window(whole("left"), whole("right")));
    align(file.text(at_ + "align"));
    options.scale = file.number(at_ + "scale");
    options.softcap = file.number(at_ + "softcap");
    options.lse = got_lse.template view<3>();
    allowed_o_ = allowed(o_, file.number(at_ + "naive_f32_error_o"));
    allowed_lse_ = allowed(lse_, file.number(at_ + "naive_f32_error_lse"));
  }
  golden_softmax(const golden_softmax&) = delete;
  golden_softmax& operator=(const golden_softmax&) = delete;

  golden_tensor<T> q, k, v, got_o, got_lse;  // the call writes got_*
  heed::softmax::options<T> options;

  // Whether got_o and got_lse are what the file says.
  bool right() const { return equal(got_o, o_, allowed_o_) && equal(got_lse, lse_, allowed_lse_); }

 private:
  void see(const heed::mask& more) { options.mask = options.mask & more; }

  void add(const golden_file& file, const std::string& input) {
    const auto integers = [&](const std::string& name) { return file.tensor<std::int32_t>(at_ + name); };
    if (input == "lengths") {
      lengths_ = integers(input);
      see(heed::key_lengths(lengths_.data));
    } else if (input == "cu_q") {
      query_offsets_ = integers("cu_q");
      key_offsets_ = integers("cu_k");
      see(heed::packed(query_offsets_.data, key_offsets_.data));
    } else if (input == "prefix") {
      prefix_ = integers(input);
      see(heed::prefix_lm(prefix_.data));
    } else if (input == "seg_q") {
      query_ids_ = integers("seg_q");
      key_ids_ = integers("seg_k");
      see(heed::segments(query_ids_.template cview<2>(), key_ids_.template cview<2>()));
    } else if (input == "mask") {
      const auto bytes = file.tensor<std::uint8_t>(at_ + input);
      visible_ = std::make_unique<bool[]>(bytes.data.size());
      std::copy(bytes.data.begin(), bytes.data.end(), visible_.get());
      const auto like = bytes.template cview<4>();
      see(heed::keep({visible_.get(),
                      {like.extent(0), like.extent(1), like.extent(2), like.extent(3)},
                      {like.stride(0), like.stride(1), like.stride(2), like.stride(3)}}));
    } else if (input == "bias") {
      bias_ = file.tensor<T>(at_ + input);
      options.bias = bias_.template cview<4>();
    } else if (input == "slopes") {
      slopes_ = file.tensor<T>(at_ + input);
      options.alibi_slopes = slopes_.data;
    } else if (input == "sink") {
      sink_ = file.tensor<T>(at_ + input);
      options.sink_logits = sink_.data;
    } else if (input != "q" && input != "k" && input != "v" && input != "cu_k" && input != "seg_k" && input != "dout" &&
               input != "dlse" && !of_layer(input)) {
      throw std::runtime_error(at_ + input + ": an input that no test knows");
    }
  }

  // What the layer around a call has: its input, its weights
  static bool of_layer(const std::string& input) { return input == "x" || input == "b_out" || input.starts_with("w_"); }

  void align(const std::string& how) {
    if (how == "top_left") {
      options.align = heed::top_left;
    } else if (how == "length") {  // query i at i + lengths[b] - n
      for (const std::int32_t length : lengths_.data) first_.push_back(length - static_cast<std::int32_t>(q.shape[2]));
      options.align = heed::first_place(first_);
    } else if (how != "bottom_right") {
      throw std::runtime_error(at_ + ": unknown alignment " + how);
    }
  }

  // The rule of the golden files for float; double differs from them by rounding alone.
  static double allowed(const golden_tensor<double>& x, double naive_error) {
    double largest = 0;
    for (const double value : x.data)
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    return std::is_same_v<T, double> ? 1e-12 * std::max(1.0, largest) : std::max(2 * naive_error, 1e-5 * largest);
  }
  static bool equal(const golden_tensor<T>& got, const golden_tensor<double>& expected, double allowed) {
    for (std::size_t i = 0; i < expected.data.size(); ++i) {
      const double x = static_cast<double>(got.data[i]), y = expected.data[i];
      if (x != y && !(std::abs(x - y) <= allowed)) return false;
    }
    return true;
  }

  std::string at_;
  golden_tensor<double> o_, lse_;
  golden_tensor<T> bias_, slopes_, sink_;
  golden_tensor<std::int32_t> lengths_, query_offsets_, key_offsets_, prefix_, query_ids_, key_ids_;
  std::unique_ptr<bool[]> visible_;
  std::vector<std::int32_t> first_;
  double allowed_o_ = 0, allowed_lse_ = 0;
};

}  // namespace heed_test
