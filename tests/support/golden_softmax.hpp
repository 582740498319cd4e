// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of softmax.safetensors as a call: tensors, options and the expected o and lse.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "heed/softmax/options.hpp"
#include "support/golden.hpp"

namespace heed_test {

template <class T> struct golden_softmax {
  golden_tensor<T> q, k, v, bias, slopes, sink;
  golden_tensor<double> o, lse;
  std::vector<T> got_o, got_lse;
  heed::softmax::options<T> options;
  double allowed_o = 0, allowed_lse = 0;

  golden_softmax(const golden_softmax&) = delete;
  golden_softmax& operator=(const golden_softmax&) = delete;

  golden_softmax(const golden_file& file, const std::string& name) {
    const std::string at = name + "/";
    q = file.tensor<T>(at + "q");
    k = file.tensor<T>(at + "k");
    v = file.tensor<T>(at + "v");
    o = file.tensor<double>(at + "o");
    lse = file.tensor<double>(at + "lse");
    got_o.assign(o.data.size(), std::numeric_limits<T>::quiet_NaN());
    got_lse.assign(lse.data.size(), std::numeric_limits<T>::quiet_NaN());

    for (const std::string& input : file.words(at + "inputs")) add_input(file, at, input);
    const bool prefix = !prefix_.data.empty();   // a prefix says what else is causal
    if (file.number(at + "causal") != 0 && !prefix) options.mask = options.mask & heed::causal();
    const auto left = static_cast<heed::index_t>(file.number(at + "left", -1)), right = static_cast<heed::index_t>(file.number(at + "right", -1));
    if (left >= 0 || right >= 0) options.mask = options.mask & heed::window(left, right);
    options.scale = file.number(at + "scale");
    options.softcap = file.number(at + "softcap");
    set_alignment(file.text(at + "align"));
    options.lse = {got_lse.data(), {lse.shape[0], lse.shape[1], lse.shape[2]}, {lse.shape[1] * lse.shape[2], lse.shape[2], 1}};

    // The rule of the golden files for float; double differs from them by rounding only.
    allowed_o = tolerance_of(o.data, file.number(at + "naive_f32_error_o"), file.number(at + "crosscheck"));
    allowed_lse = tolerance_of(lse.data, file.number(at + "naive_f32_error_lse"), file.number(at + "crosscheck"));
  }

  heed::tensor_view<T, 4> output() { return {got_o.data(), o.template view<4>().extents_of(), o.template view<4>().strides_of()}; }

 private:
  golden_tensor<std::int32_t> lengths_, cu_q_, cu_k_, prefix_, seg_q_, seg_k_;
  golden_tensor<std::uint8_t> mask_bytes_;
  std::unique_ptr<bool[]> mask_;
  std::vector<std::int32_t> first_;
};

}  // namespace heed_test
