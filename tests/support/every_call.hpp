// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of every verb that has a context, on small tensors: for tests of what goes wrong around a call.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "heed/cache.hpp"
#include "heed/convert.hpp"
#include "heed/heed.hpp"
#include "support/random.hpp"

namespace heed_test {

struct one_call {
  std::string name;
  std::function<void(const heed::context&)> run;
  std::function<heed::plan(const heed::context&)> plan;  // none: the verb has none
  std::vector<std::span<std::byte>> outputs;             // and states, which it reads, too

  std::vector<std::byte> written() const {
    std::vector<std::byte> all;
    for (const auto part : outputs) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
};

class every_call {
 public:
  every_call() {
    add_softmax();
    add_mixture();
    add_linear();
    add_lightning();
    add_local_linear();
    add_convert();
  }
  every_call(const every_call&) = delete;
  every_call& operator=(const every_call&) = delete;

  const std::vector<one_call>& all() const { return all_; }
  void forget() {  // puts back what was there before the calls
    for (auto& x : memory_) std::copy(x.first.begin(), x.first.end(), x.numbers.begin());
  }

 private:
  using index_t = heed::index_t;
  using rows = heed::tensor_view<float, 4>;
  using heads = heed::tensor_view<float, 3>;
  static constexpr index_t B = 2, H = 4, Hk = 2, N = 40, D = 8;

  struct kept {
    std::vector<float> first, numbers;
  };

  float* fresh(index_t count) {
    kept& x = memory_.emplace_back();
    for (index_t i = 0; i < count; ++i) x.first.push_back(static_cast<float>(random_.normal()));
    x.numbers = x.first;
    return x.numbers.data();
  }
  rows tensor(index_t h, index_t n) { return heed::bhsd(fresh(B * h * n * D), B, h, n, D); }
  heads numbers() { return heed::contiguous(fresh(B * H * N), {B, H, N}); }
  heed::state_view<float> state(index_t h) {
    float* const p = fresh(B * h * D * D);
    return {heed::bhsd(p, B, h, D, D), heed::contiguous(fresh(B * h * D), {B, h, D})};
  }
  template <class T, int Rank> static std::span<std::byte> bytes(const heed::tensor_view<T, Rank>& x) {
    std::size_t count = sizeof(T);
    for (const index_t n : x.extents()) count *= static_cast<std::size_t>(n);
    return {reinterpret_cast<std::byte*>(x.data()), count};
  }
  template <class Run, class Plan, class... Out> void add(const char* name, Run run, Plan plan, const Out&... out) {
    all_.push_back({name, run, plan, {bytes(out)...}});
  }

  void add_softmax() {
    const rows q = q_, k = k_, v = v_, o = tensor(H, N), dout = tensor(H, N), right = tensor(H, N);
    const heads lse = numbers(), right_lse = numbers();
    const heed::softmax::options<float> how{.mask = heed::causal(), .lse = lse}, back{.lse = right_lse};
    add(
        "softmax::forward", [=](auto& where) { heed::softmax::forward(q, k, v, o, how, where); },
        [=](auto& where) { return heed::softmax::plan_forward(q, k, v, o, how, where); }, o, lse);
    add("softmax::prepare", [=](auto& where) { heed::softmax::prepare(q, k, v, o, how, where)(); }, nullptr, o, lse);
    heed::softmax::forward(q, k, v, right, back);
    std::copy(right_lse.data(), right_lse.data() + B * H * N, memory_.back().first.begin());
    const heed::softmax::gradients<float> to{.dq = tensor(H, N), .dk = tensor(Hk, N), .dv = tensor(Hk, N)};
    add(
        "softmax::backward", [=](auto& where) { heed::softmax::backward(q, k, v, right, dout, to, back, where); },
        [=](auto& where) { return heed::softmax::plan_backward(q, k, v, right, dout, to, back, where); }, to.dq, to.dk,
        to.dv);
    cache_.append(k, v);
    const auto held = cache_.view();
    const rows one = tensor(H, 1), o_one = tensor(H, 1);
    add(
        "softmax::decode", [=](auto& where) { heed::softmax::decode(one, held, o_one, {}, where); },
        [=](auto& where) { return heed::softmax::plan_decode(one, held, o_one, {}, where); }, o_one);
    add(
        "softmax::prepare_decode", [=](auto& where) { heed::softmax::prepare_decode(one, held, o_one, {}, where)(); },
        nullptr, o_one);
    const heads gates = heed::contiguous(fresh(B * H), {B, H, index_t{1}});
    add(
        "mixture_of_head::decode",
        [=](auto& where) { heed::mixture_of_head::decode(one, held, gates, o_one, {}, where); },
        [=](auto& where) { return heed::mixture_of_head::plan_decode(one, held, gates, o_one, {}, where); }, o_one);
    add(
        "local_linear::decode", [=](auto& where) { heed::local_linear::decode(one, held, 1.0, o_one, {}, where); },
        [=](auto& where) { return heed::local_linear::plan_decode(one, held, 1.0, o_one, {}, where); }, o_one);
  }
  void add_mixture() {
    const rows q = q_, k = k_, v = v_, o = tensor(H, N), right = tensor(H, N), dout = tensor(H, N);
    const heads gates = numbers(), lse = numbers();
    const heed::softmax::options<float> how{.lse = lse};
    add(
        "mixture_of_head::forward", [=](auto& where) { heed::mixture_of_head::forward(q, k, v, gates, o, {}, where); },
        [=](auto& where) { return heed::mixture_of_head::plan_forward(q, k, v, gates, o, {}, where); }, o);
    const heed::mixture_of_head::gradients<float> to{.dq = tensor(H, N), .dk = tensor(Hk, N), .dv = tensor(Hk, N)};
    add(
        "mixture_of_head::backward",
        [=](auto& where) { heed::mixture_of_head::backward(q, k, v, gates, right, dout, to, how, where); },
        [=](auto& where) { return heed::mixture_of_head::plan_backward(q, k, v, gates, right, dout, to, how, where); },
        to.dq, to.dk, to.dv);
  }
  void add_linear() {
    const rows q = q_, k = k_, v = v_, o = tensor(H, N), right = tensor(H, N), dout = tensor(H, N);
    const auto memory = state(Hk);
    const heed::linear::options<float> how{.mask = heed::causal(), .initial_state = memory, .final_state = memory};
    add(
        "linear::forward", [=](auto& where) { heed::linear::forward(q, k, v, o, how, where); },
        [=](auto& where) { return heed::linear::plan_forward(q, k, v, o, how, where); }, o, memory.s, memory.z);
    const heed::linear::gradients<float> to{.dq = tensor(H, N), .dk = tensor(Hk, N), .dv = tensor(Hk, N)};
    const heed::linear::options<float> back{.mask = heed::causal()};
    add(
        "linear::backward", [=](auto& where) { heed::linear::backward(q, k, v, right, dout, to, back, where); },
        [=](auto& where) { return heed::linear::plan_backward(q, k, v, right, dout, to, back, where); }, to.dq, to.dk,
        to.dv);
    add(
        "linear::decode", [=](auto& where) { heed::linear::decode(q, k, v, memory, o, {}, where); },
        [=](auto& where) { return heed::linear::plan_decode(q, k, v, memory, o, {}, where); }, o, memory.s, memory.z);
  }
  void add_lightning() {
    const rows q = q_, k = k_, v = v_, o = tensor(H, N), dout = tensor(H, N);
    const auto memory = state(H);
    const heed::state_view<float> own{memory.s, {}};
    static const std::vector<double> slopes(H, 0.1);
    const heed::decay<float> decay(slopes);
    const heed::lightning::options<float> how{.initial_state = own, .final_state = own};
    add(
        "lightning::forward", [=](auto& where) { heed::lightning::forward(q, k, v, decay, o, how, where); },
        [=](auto& where) { return heed::lightning::plan_forward(q, k, v, decay, o, how, where); }, o, own.s);
    const heed::lightning::gradients<float> to{.dq = tensor(H, N), .dk = tensor(Hk, N), .dv = tensor(Hk, N)};
    add(
        "lightning::backward", [=](auto& where) { heed::lightning::backward(q, k, v, decay, dout, to, {}, where); },
        [=](auto& where) { return heed::lightning::plan_backward(q, k, v, decay, dout, to, {}, where); }, to.dq, to.dk,
        to.dv);
    add(
        "lightning::decode", [=](auto& where) { heed::lightning::decode(q, k, v, decay, own, o, {}, where); },
        [=](auto& where) { return heed::lightning::plan_decode(q, k, v, decay, own, o, {}, where); }, o, own.s);
  }
  void add_local_linear() {
    const rows q = q_, k = k_, v = v_, o = tensor(H, N), dout = tensor(H, N), slope = tensor(H, N);
    const heed::local_linear::options<float> how{.mask = heed::causal()};
    add(
        "local_linear::forward", [=](auto& where) { heed::local_linear::forward(q, k, v, 1.0, o, how, where); },
        [=](auto& where) { return heed::local_linear::plan_forward(q, k, v, 1.0, o, how, where); }, o);
    add(
        "local_linear::apply", [=](auto& where) { heed::local_linear::apply(q, k, v, slope, o, how, where); },
        [=](auto& where) { return heed::local_linear::plan_apply(q, k, v, slope, o, how, where); }, o);
    const heed::local_linear::gradients<float> to{.dq = tensor(H, N), .dk = tensor(Hk, N), .dv = tensor(Hk, N)};
    add(
        "local_linear::backward",
        [=](auto& where) { heed::local_linear::backward(q, k, v, 1.0, dout, to, how, where); },
        [=](auto& where) { return heed::local_linear::plan_backward(q, k, v, 1.0, dout, to, how, where); }, to.dq,
        to.dk, to.dv);
  }
  void add_convert() {
    const rows from = q_, to = tensor(H, N);
    add(
        "convert", [=](auto& where) { heed::convert(from, to, where); },
        [=](auto& where) { return heed::plan_convert(from, to, where); }, to);
    const heed::tensor_view<std::int8_t, 4> q8 =
        heed::bhsd(reinterpret_cast<std::int8_t*>(fresh(B * H * N * D / 4)), B, H, N, D);
    const heads scale = numbers();
    add("quantize", [=](auto& where) { heed::quantize(from, q8, scale, where); }, nullptr, q8, scale);
  }

  std::deque<kept> memory_;
  random_numbers random_{19};
  rows q_ = tensor(H, N), k_ = tensor(Hk, N), v_ = tensor(Hk, N);
  heed::cache::contiguous<float> cache_{B, Hk, N, D, D};
  std::vector<one_call> all_;
};

}  // namespace heed_test
