// SPDX-License-Identifier: BSD-3-Clause

// ONNX's operator Attention (version 25) in bf16 and f16 as calls of softmax::forward, beside what ONNX's reference
// evaluator computes: with all numbers in double the same result, and in 16 bit one that is further from it than ours.
//
// is_causal: query i at place i, behind a past at past + i, with nonpad_kv_seqlen at length - queries + i. attn_mask:
// keep or bias, which counts in float; behind its end keys are hidden. Present keys and values are views of a cache.
// Softmax precision is float. No call maps to qk_matmul_output. tests/golden/onnx_half.py has the cases.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/half_case.hpp"

using namespace heed_test;

namespace {

// (batch, seq, heads * dim) as (batch, heads, seq, dim)
template <class T> heed::tensor_view<T, 4> split(const heed::tensor_view<T, 3>& x, index_t heads) {
  const heed::tensor_view<T, 4> rows(x.data(), {x.extent(0), 1, x.extent(1), x.extent(2)},
                                     {x.stride(0), 0, x.stride(1), 1});
  return heed::split_heads(rows, heads);
}

// One case of the file as a call: shape, options and the memory that they view
class onnx_case {
 public:
  onnx_case(const golden_file& file, const std::string& name) : file_(file), at_(name + "/") {
    type = file.text(at_ + "type") == "bf16" ? stored::bf16 : stored::f16;
    q = tensor("q"), k = tensor("k"), v = tensor("v"), y = file.tensor<double>(at_ + "y"), y16 = tensor("y16");
    flat = q.shape.size() == 3;
    heads = flat ? whole("q_num_heads") : q.shape[1], kv_heads = flat ? whole("kv_num_heads") : k.shape[1];
    const auto extent = [&](const golden_tensor<float>& x, std::size_t axis, index_t in) {
      return flat ? axis == 2 ? x.shape[1] : x.shape[2] / in : x.shape[axis];
    };
    size = {q.shape[0],
            heads,
            kv_heads,
            extent(q, 2, heads),
            extent(k, 2, kv_heads),
            extent(q, 3, heads),
            extent(v, 3, kv_heads)};
    if (file.number(at_ + "scale") > 0) options.scale = file.number(at_ + "scale");
    options.softcap = file.number(at_ + "softcap");
    place(), read_mask();
    if (whole("is_causal") == 1) see(heed::causal());
    const index_t left = whole("left_window_size", -1), right = whole("right_window_size", -1);
    if (left >= 0 || right >= 0) see(heed::window(left, right));
  }
  onnx_case(const onnx_case&) = delete;
  onnx_case& operator=(const onnx_case&) = delete;

  stored type;
  bool flat;  // (batch, seq, heads * dim)
  index_t heads, kv_heads;
  shape size;
  golden_tensor<float> q, k, v, y16;
  golden_tensor<double> y;
  heed::softmax::options<float> options;

  // x(b, h, i, d), whatever its axes
  template <class T> T at(const golden_tensor<T>& x, index_t of, index_t b, index_t h, index_t i, index_t d) const {
    const auto view = flat ? split(x.template cview<3>(), of) : x.template cview<4>();
    return view(b, h, i, d);
  }

 private:
  golden_tensor<float> tensor(const char* key) const { return file_.tensor<float>(at_ + key); }
  index_t whole(const char* key, double missing = 0) const {
    return static_cast<index_t>(file_.number(at_ + key, missing));
  }
  void see(const heed::mask& more) { options.mask = options.mask & more; }

  void place() {
    first_.assign(static_cast<std::size_t>(size.batch), static_cast<std::int32_t>(whole("past")));
    if (file_.has(at_ + "lengths")) {
      lengths_ = file_.tensor<std::int32_t>(at_ + "lengths").data;
      see(heed::key_lengths(lengths_));
      for (std::size_t b = 0; b < first_.size(); ++b) first_[b] = lengths_[b] - static_cast<std::int32_t>(size.queries);
    }
    options.align = heed::first_place(first_);
  }

  // With -inf, or false, behind the mask's end
  void read_mask() {
    if (!file_.has(at_ + "mask")) return;
    const bool keeps = whole("bool_mask") == 1;
    const golden_tensor<float> given = tensor("mask");
    const index_t keys = given.shape.back(), rows = static_cast<index_t>(given.data.size()) / keys;
    mask_.shape = given.shape, mask_.shape.back() = size.keys;
    for (index_t r = 0; r < rows; ++r)
      for (index_t j = 0; j < size.keys; ++j)
        mask_.data.push_back(j < keys ? given.data[static_cast<std::size_t>(r * keys + j)]
                             : keeps  ? 0
                                      : -std::numeric_limits<float>::infinity());
    const auto view = mask_.cview<4>();
    if (!keeps) {
      options.bias = view;
      return;
    }
    visible_ = std::make_unique<bool[]>(mask_.data.size());
    std::transform(mask_.data.begin(), mask_.data.end(), visible_.get(), [](float x) { return x > 0; });
    see(heed::keep({visible_.get(), view.extents(), view.strides()}));
  }

  const golden_file& file_;
  std::string at_;
  std::vector<std::int32_t> first_, lengths_;
  golden_tensor<float> mask_;
  std::unique_ptr<bool[]> visible_;
};

// Keys and values are views of a cache, off by an element, and were appended to it.
half_case call_of(const onnx_case& c) {
  half_case x(type_mix::all(c.type), c.size, c.options,
              {.k = c.flat ? layout::bshd : layout::cache, .v = c.flat ? layout::bshd : layout::cache, .skew = 1});
  x.options.lse = {};
  const auto copy = [&](const buffer<float>& to, const golden_tensor<float>& from, index_t heads) {
    for (index_t b = 0; b < to.size()[0]; ++b)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < to.size()[2]; ++i)
          for (index_t d = 0; d < to.size()[3]; ++d) to(b, h, i, d) = c.at(from, heads, b, h, i, d);
  };
  copy(x.q, c.q, c.heads), copy(x.k, c.k, c.kv_heads), copy(x.v, c.v, c.kv_heads);
  return x;
}

// The same call on ONNX's 3D tensors as they are
template <class S> bool same_in_3d(const onnx_case& c, const half_case& x) {
  const auto narrow = [](const golden_tensor<float>& from) {
    golden_tensor<S> to;
    to.shape = from.shape;
    for (const float each : from.data) to.data.push_back(S(each));
    return to;
  };
  const golden_tensor<S> q = narrow(c.q), k = narrow(c.k), v = narrow(c.v);
  golden_tensor<S> o = narrow(c.y16);
  run_stored({split(q.template cview<3>(), c.heads), split(k.template cview<3>(), c.kv_heads),
              split(v.template cview<3>(), c.kv_heads), split(o.template view<3>(), c.heads)},
             x.options, {});
  bool same = true;
  for (index_t b = 0; b < c.size.batch; ++b)
    for (index_t h = 0; h < c.heads; ++h)
      for (index_t i = 0; i < c.size.queries; ++i)
        for (index_t e = 0; e < c.size.value_dim; ++e)
          same = same && static_cast<float>(c.at(o, c.heads, b, h, i, e)) == x.o(b, h, i, e);
  return same;
}

}  // namespace

TEST_CASE("ONNX Attention in 16 bit") {
  const golden_file file("onnx_half");
  REQUIRE(file.cases().size() == 28);
  for (const std::string& name : file.cases()) {
    INFO(name);
    const onnx_case c(file, name);
    half_case x = call_of(c);
    check(x);  // beside our own reference

    const auto evaluator = [&](const heed::tensor_view<double, 4>& o, const auto&) {
      for (index_t b = 0; b < o.extent(0); ++b)
        for (index_t h = 0; h < o.extent(1); ++h)
          for (index_t i = 0; i < o.extent(2); ++i)
            for (index_t e = 0; e < o.extent(3); ++e) o(b, h, i, e) = c.at(c.y, c.heads, b, h, i, e);
    };
    const auto one = [](index_t, index_t, index_t) { return 1.0; };
    const exactness how = x.exact(x.plan());
    const verdict result = compare(x, x.options, evaluator, one, how);
    INFO(result.where);
    CHECK(result.worst <= 1);

    double ours = 0, theirs = 0, rounding = 0;
    for (index_t b = 0; b < c.size.batch; ++b)
      for (index_t h = 0; h < c.heads; ++h)
        for (index_t i = 0; i < c.size.queries; ++i)
          for (index_t e = 0; e < c.size.value_dim; ++e) {
            const double y = c.at(c.y, c.heads, b, h, i, e);
            ours = std::max(ours, std::abs(static_cast<double>(x.o(b, h, i, e)) - y));
            theirs = std::max(theirs, std::abs(static_cast<double>(c.at(c.y16, c.heads, b, h, i, e)) - y));
            rounding = std::max(rounding, how.o.at(y));
          }
    INFO("largest error " << ours << ", the evaluator's in 16 bit " << theirs);
    CHECK(ours <= std::max(theirs, rounding + 1e-6));
    if (c.flat) {
      const bool same = c.type == stored::bf16 ? same_in_3d<heed::bf16_t>(c, x) : same_in_3d<heed::f16_t>(c, x);
      CHECK(same);
    }
  }
}
