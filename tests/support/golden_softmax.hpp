// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One case of softmax.safetensors, or of a family with its tensors, as a call: tensors, options, and the expected o and
// lse.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "heed/softmax/options.hpp"
#include "support/golden_case.hpp"

namespace heed_test {

template <class T> class golden_softmax : public golden_case<T> {
 public:
  golden_softmax(const golden_file& file, const std::string& name) : golden_case<T>(file, name) {
    o_ = this->expect("o", got_o), lse_ = this->expect("lse", got_lse);
    this->each_input({"cu_k", "seg_k", "x", "b_out"},
                     [&](const std::string& input) { return input.starts_with("w_") || add(input); });
    see(this->causal_and_window(prefix_.data.empty()));  // prefix_lm is causal beyond the prefix
    align();
    options.scale = this->number("scale");
    options.softcap = this->number("softcap");
    options.lse = got_lse.template view<3>();
  }

  golden_tensor<T> got_o, got_lse;  // the call writes got_*
  heed::softmax::options<T> options;

  // Whether got_o and got_lse are what the file says.
  bool right() const { return o_.right(got_o) && lse_.right(got_lse); }

 private:
  void see(const heed::mask& more) { options.mask = options.mask & more; }

  bool add(const std::string& input) {
    const auto integers = [&](const char* key) { return this->template tensor<std::int32_t>(key); };
    if (input == "lengths") {
      lengths_ = integers("lengths");
      see(heed::key_lengths(lengths_.data));
    } else if (input == "cu_q") {
      query_offsets_ = integers("cu_q"), key_offsets_ = integers("cu_k");
      see(heed::packed(query_offsets_.data, key_offsets_.data));
    } else if (input == "prefix") {
      prefix_ = integers("prefix");
      see(heed::prefix_lm(prefix_.data));
    } else if (input == "seg_q") {
      query_ids_ = integers("seg_q"), key_ids_ = integers("seg_k");
      see(heed::segments(query_ids_.template cview<2>(), key_ids_.template cview<2>()));
    } else if (input == "mask") {
      const auto bytes = this->template tensor<std::uint8_t>(input);
      visible_ = std::make_unique<bool[]>(bytes.data.size());
      std::copy(bytes.data.begin(), bytes.data.end(), visible_.get());
      const auto like = bytes.template cview<4>();
      see(heed::keep({visible_.get(),
                      {like.extent(0), like.extent(1), like.extent(2), like.extent(3)},
                      {like.stride(0), like.stride(1), like.stride(2), like.stride(3)}}));
    } else if (input == "bias") {
      bias_ = this->tensor(input);
      options.bias = bias_.template cview<4>();
    } else if (input == "slopes") {
      slopes_ = this->tensor(input);
      options.alibi_slopes = slopes_.data;
    } else if (input == "sink") {
      sink_ = this->tensor(input);
      options.sink_logits = sink_.data;
    } else {
      return false;
    }
    return true;
  }

  void align() {
    this->aligned({"top_left", "length", "bottom_right"});
    if (this->text("align") == "top_left") options.align = heed::top_left;
    if (this->text("align") != "length") return;  // query i at i + lengths[b] - n
    for (const std::int32_t length : lengths_.data)
      first_.push_back(length - static_cast<std::int32_t>(this->q.shape[2]));
    options.align = heed::first_place(first_);
  }

  golden_output o_, lse_;
  golden_tensor<T> bias_, slopes_, sink_;
  golden_tensor<std::int32_t> lengths_, query_offsets_, key_offsets_, prefix_, query_ids_, key_ids_;
  std::unique_ptr<bool[]> visible_;
  std::vector<std::int32_t> first_;
};

}  // namespace heed_test
