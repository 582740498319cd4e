// SPDX-License-Identifier: BSD-3-Clause
//
// Times linear::forward and decode. FLOPs are nominal per token and head: 4 F E for F features, and 65 (D + E) more in
// causal rows. They do not count feature maps and normalisers. Rows:
//   causal/<feature>/D<D>/N<N>    one head, E = D, normalised      dense/<feature>/D<D>/N<N>    every key seen
//   numbers/<feature>/            causal: small scales, subnormal numbers, NaN
//   taylor/D<D>                   N = 4096, E = 64: tokens/s       decode/D<D>                  one token, 8 heads
//   layout/<mask>/...             feature elu_plus_one, see support/layout.hpp
//   backward/...                  causal, elu_plus_one, see support/backward_rows.hpp
#include "support/backward_rows.hpp"

#include <string>
#include <vector>

#include "heed/reference/linear_backward.hpp"
#include "support/layout.hpp"
#include "support/numbers.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"

namespace {

using namespace heed_bench;
using benchmark::Counter;
using benchmark::State;
using heed::feature;
using options = heed::linear::options<float>;
using tensors_of = recurrent_tensors<float>;

constexpr struct {
  const char* name;
  feature map;
} features[] = {{"identity", feature::identity}, {"elu", feature::elu_plus_one}, {"softmax", feature::softmax}};

void run(const tensors_of& x, const options& how, const heed::context& where = {}) {
  heed::linear::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), how, where);
}

void add_call(const std::string& name, const recurrent_shape& s, const options& how) {
  add(name, [=](State& state, const std::string& row) {
    const tensors_of x(s);
    const heed::plan plan = heed::linear::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), how);
    std::vector<std::byte> bytes(plan.workspace_bytes);
    time_row<float>(state, row, s, [&] { run(x, how, {.workspace = bytes}); });
    state.SetLabel(std::string(plan.path) + " " + plan.isa + " chunk " + std::to_string(plan.chunk));
  });
}

void add_forward_rows() {
  for (const auto& [name, map] : features)
    for (const index_t d : {64, 128})
      for (const index_t n : {1024, 16384}) {
        const recurrent_shape s{.n = n, .d = d, .e = d};
        const std::string rest = std::string("/") + name + number("/D", d) + number("/N", n);
        add_call("causal" + rest, s, {.mask = heed::causal(), .feature = map, .normalize = map != feature::identity});
        add_call("dense" + rest, {.n = n, .d = d, .e = d, .causal = false},
                 {.feature = map, .normalize = map != feature::identity});
      }
  for (const index_t d : {8, 16, 32})
    add_call(number("taylor/D", d), {.n = 4096, .d = d, .e = 64, .features = 1 + d + d * d},
             {.mask = heed::causal(), .feature = feature::taylor});
}

void add_decode_rows() {
  for (const index_t d : {64, 128})
    add(number("decode/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      constexpr index_t heads = 8;
      const tensors_of x({.n = 1, .d = d, .e = d, .heads = heads});
      heed::state<float> memory(1, heads, d, d);
      for (auto _ : state) heed::linear::decode(x.q_view(), x.k_view(), x.v_view(), memory, x.o_view());
      const double bytes = 2.0 * static_cast<double>(heads * d * d) * sizeof(float);
      state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
      state.counters["tokens/s"] = Counter(1, Counter::kIsIterationInvariantRate);
    });
}

void add_numbers_rows() {
  for (const auto& [name, map] : features) {
    const auto row = [prefix = std::string(name) + "/", kind = map](const std::string& numbers, auto hard) {
      const auto plain = [kind](options& how) {
        how = {.mask = heed::causal(), .feature = kind, .normalize = kind != feature::identity};
      };
      add_numbers<tensors_of>(
          prefix + numbers, {.n = numbers_n, .d = 64, .e = 64}, options(),
          [](tensors_of& x, const options& how) { return run(x, how), 0.0; },
          [=](tensors_of& x, options& how) { plain(how), hard(x, how); }, plain);
    };
    row("scale1e-38", [](tensors_of&, options& how) { how.scale = 1e-38; });
    row("subnormal_q", [](tensors_of& x, options&) { make_subnormal(x.q); });
    row("subnormal_k", [](tensors_of& x, options&) { make_subnormal(x.k); });
    row("subnormal_v", [](tensors_of& x, options&) { make_subnormal(x.v); });
    row("nan_v", [](tensors_of& x, options&) { *x.v.begin() = std::numeric_limits<float>::quiet_NaN(); });
  }
}

void add_layouts() {
  for (const bool causal : {true, false}) {
    options how{.feature = feature::elu_plus_one};
    if (causal) how.mask = heed::causal();
    add_layout_rows(
        causal ? "causal/" : "dense/", [how](const laid_tensors& x) { heed::linear::forward(x.q, x.k, x.v, x.o, how); },
        [causal](const laid_shape& s) {
          return recurrent_shape{.n = s.n, .d = s.d, .e = s.d, .causal = causal}.flops();
        });
  }
}

struct backward_calls {
  static constexpr bool normalised = true;

  static void forward(const backward_tensors<float>& x, const heed::context& where) {
    run(x, {.mask = heed::causal()}, where);
  }
  static void backward(const backward_tensors<float>& x, const heed::context& where) {
    heed::linear::backward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), x.dout_view(),
                           x.gradients<heed::linear::gradients<float>>(), {.mask = heed::causal()}, where);
  }
  static heed::plan plan(const backward_tensors<float>& x) {
    return heed::linear::plan_backward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), x.dout_view(),
                                       x.gradients<heed::linear::gradients<float>>(), {.mask = heed::causal()});
  }
  static void reference(const backward_tensors<double>& x) {
    heed::reference::linear::backward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), x.dout_view(),
                                      x.gradients<heed::linear::gradients<double>>(), {.mask = heed::causal()});
  }
};

}  // namespace

int main(int argc, char** argv) {
  add_forward_rows();
  add_decode_rows();
  add_numbers_rows();
  add_layouts();
  backward_rows<backward_calls>::add_all();
  return run_all(argc, argv);
}
