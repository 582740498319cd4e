// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Rows of softmax_bench.cpp for the cost of options.
//   options/<name>        one head, N = M = 2048, D = E = 64: x_plain is the time over that of the call
//                         without the option, both timed in every iteration
//   packed/...            sequences end to end over the same as a batch; lengths of half the keys over all keys
//   board/<squares>/B<B>  8 heads, D = E = 32, an additive bias per head, beside two Eigen products with the same bias
// Include it after support/eigen_baseline.hpp.

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/eigen_baseline.hpp"
#include "support/rows.hpp"
#include "support/shapes.hpp"

namespace heed_bench {

// Holds options and the memory that they view.
struct option_case {
  heed::softmax::options<float> options;
  std::vector<float> numbers = {};
  std::unique_ptr<bool[]> flags = {};
  std::vector<std::int32_t> ids = {};
};

inline std::vector<float> small_numbers(index_t count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  std::uint32_t seed = 7;
  for (float& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) * 0x1p-23f - 1;
  }
  return x;
}

// Makes the option of a call of shape s that `name` names; "" is no option.
inline std::unique_ptr<option_case> option_named(const std::string& name, const shape& s) {
  auto x = std::make_unique<option_case>();
  auto& options = x->options;
  const auto bias = [&](index_t heads, index_t n, index_t m) {
    x->numbers = small_numbers(heads * n * m);
    options.bias = {x->numbers.data(), {1, heads, n, m}, {0, n * m, m, 1}};
  };
  if (name == "softcap") options.softcap = 30;
  if (name == "alibi") options.alibi_slopes = 0.0625;
  if (name == "bias") bias(s.heads, s.n, s.m);
  if (name == "bias/over_heads") bias(1, s.n, s.m);
  if (name == "bias/over_rows") bias(s.heads, 1, s.m);
  if (name == "bias/toeplitz") {  // bias[i][j] = t[j - i + n - 1]
    x->numbers = small_numbers(s.n + s.m - 1);
    options.bias = {x->numbers.data() + s.n - 1, {1, 1, s.n, s.m}, {0, 0, -1, 1}};
  }
  if (name == "score") options.score = [](float score, const heed::position&) { return 0.5f * score + 1; };
  if (name == "sinks") options.sink_logits = 0.5;
  if (name == "visible_if")
    options.mask = heed::visible_if([](const heed::position& at) { return at.key <= at.place + 1024; });
  if (name == "keep" || name == "keep/all") {
    x->flags = std::make_unique<bool[]>(static_cast<std::size_t>(s.n * s.m));
    const auto coin = small_numbers(s.n * s.m);
    for (index_t i = 0; i < s.n * s.m; ++i)
      x->flags[static_cast<std::size_t>(i)] = name == "keep/all" || coin[static_cast<std::size_t>(i)] < 0.5f;
    options.mask = heed::keep({x->flags.get(), {1, 1, s.n, s.m}, {0, 0, s.m, 1}});
  }
  if (name == "segments/4") {
    for (index_t i = 0; i < s.m; ++i) x->ids.push_back(static_cast<std::int32_t>(4 * i / s.m));
    const heed::tensor_view<const std::int32_t, 2> ids(x->ids.data(), {1, s.m}, {s.m, 1});
    options.mask = heed::segments(ids, ids);
  }
  return x;
}

// Times `call` and `plain` in every iteration. The counter is the median of their ratio.
template <class Call, class Plain>
void time_ratio(benchmark::State& state, const char* counter, Call call, Plain plain) {
  std::vector<double> ratios;
  call(), plain();
  for (auto _ : state) {
    const double a = seconds_of(call), b = seconds_of(plain);
    state.SetIterationTime(a);
    ratios.push_back(a / b);
  }
  state.counters[counter] = median(ratios);
}

inline std::string path_and_why(const heed::plan& how) { return std::string(how.path) + ": " + how.why.data(); }

inline void add_option_costs() {
  for (const char* name : {"softcap", "alibi", "bias", "bias/over_heads", "bias/over_rows", "bias/toeplitz", "score",
                           "sinks", "visible_if", "keep", "keep/all", "segments/4"})
    add(std::string("options/") + name, [name](benchmark::State& state, const std::string& row) {
      show_progress(row);
      const bool two_heads = std::string(name) == "bias/over_heads";
      tensors<float> x({.n = 2048, .m = 2048, .heads = two_heads ? 2 : 1, .kv_heads = two_heads ? 2 : 1});
      const auto with = option_named(name, x.at);
      const auto run = [&](const heed::softmax::options<float>& options) {
        heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options);
      };
      time_ratio(
          state, "x_plain", [&] { run(with->options); }, [&] { run({}); });
      set_rates<float>(state, x.at);
      state.SetLabel(
          path_and_why(heed::softmax::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), with->options)));
    })->UseManualTime();
}

inline void add_packed_rows() {
  add("packed/64x64", [](benchmark::State& state, const std::string& row) {
    show_progress(row);
    constexpr index_t count = 64, each = 64;
    tensors<float> x({.n = count * each, .m = count * each});
    std::vector<std::int32_t> offsets;
    for (index_t i = 0; i <= count; ++i) offsets.push_back(static_cast<std::int32_t>(i * each));
    const auto batch = [&](auto* data) { return heed::bhsd(data, count, 1, each, x.at.d); };
    time_ratio(
        state, "x_batch",
        [&] {
          heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(),
                                 {.mask = heed::packed(offsets, offsets)});
        },
        [&] {
          heed::softmax::forward(batch(std::as_const(x.q).data()), batch(std::as_const(x.k).data()),
                                 batch(std::as_const(x.v).data()), batch(x.o.data()));
        });
  })->UseManualTime();
  // Lengths are 1/64 to 63/64 of the longest, half on average. key_lengths cuts the keys, packed cuts both sides.
  for (const bool packed : {false, true})
    add(std::string("packed/ragged/") + (packed ? "packed" : "key_lengths"), [packed](benchmark::State& state,
                                                                                      const std::string& row) {
      show_progress(row);
      constexpr index_t count = 15, longest = 1024;
      tensors<float> x({.n = count * longest, .m = count * longest});
      std::vector<std::int32_t> lengths, offsets{0};
      for (index_t i = 1; i <= count; ++i) {
        lengths.push_back(static_cast<std::int32_t>(i * longest / (count + 1)));
        offsets.push_back(offsets.back() + lengths.back());
      }
      const auto batch = [&](auto* data) { return heed::bhsd(data, count, 1, longest, x.at.d); };
      const auto in_batch = [&](const heed::softmax::options<float>& options) {
        heed::softmax::forward(batch(std::as_const(x.q).data()), batch(std::as_const(x.k).data()),
                               batch(std::as_const(x.v).data()), batch(x.o.data()), options);
      };
      const auto rows = [&](auto* data) { return heed::matrix(data, offsets.back(), x.at.d); };
      time_ratio(
          state, "x_padded",
          [&] {
            if (packed)
              heed::softmax::forward(rows(std::as_const(x.q).data()), rows(std::as_const(x.k).data()),
                                     rows(std::as_const(x.v).data()), rows(x.o.data()),
                                     {.mask = heed::packed(offsets, offsets)});
            else
              in_batch({.mask = heed::key_lengths(lengths)});
          },
          [&] { in_batch({}); });
    })->UseManualTime();
}

inline void add_board_rows() {
  for (const index_t squares : {64, 361})
    for (const index_t batch : {1, 16}) {
      if (squares == 361 && batch > 1) continue;
      const std::string name = number("board/", squares) + number("/B", batch);
      const shape s{.n = squares, .m = squares, .d = 32, .e = 32, .heads = 8 * batch, .kv_heads = 8 * batch};
      add(name, [s, batch](benchmark::State& state, const std::string& row) {
        tensors<float> x(s);
        const auto bias = small_numbers(8 * s.n * s.m);
        const heed::softmax::options<float> options{.bias = {bias.data(), {1, 8, s.n, s.m}, {0, s.n * s.m, s.m, 1}}};
        const auto view = [&](auto* data) { return heed::bhsd(data, batch, 8, s.n, s.d); };
        const auto q = view(std::as_const(x.q).data()), k = view(std::as_const(x.k).data()),
                   v = view(std::as_const(x.v).data());
        const auto o = view(x.o.data());
        std::vector<std::byte> workspace(heed::softmax::plan_forward(q, k, v, o, options).workspace_bytes);
        time_row<float>(state, row, s, [&] { heed::softmax::forward(q, k, v, o, options, {.workspace = workspace}); });
        state.SetLabel(path_and_why(heed::softmax::plan_forward(q, k, v, o, options)));
      });
      add(name + "/eigen", [s](benchmark::State& state, const std::string& row) {
        tensors<float> x(s);
        const auto bias = small_numbers(8 * s.n * s.m);
        eigen_attention<float> eigen(s);
        time_row<float>(state, row, s, [&] { eigen(x, bias.data(), 8); });
      });
    }
}

}  // namespace heed_bench
