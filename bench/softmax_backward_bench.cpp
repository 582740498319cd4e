// SPDX-License-Identifier: BSD-3-Clause
//
// Times softmax::backward and mixture_of_head::backward beside forward, in the same iterations. Rows:
//   <mask>/D<D>/N<N>          one head, M = N; /eigen and /naive: the same gradients without heed
//   gqa/<mask>/D<D>/N<N>      8 query heads on 2 k/v heads    double/D<D>/N<N>      in double
//   part/<gradients>/D<D>     only some gradients              options/<name>        the cost of an option, x_plain
//   layout/<layout>           token-major, x_bhsd              numbers/<name>        sharp and subnormal, x_mild
//   threads/...               two threads over one             accuracy/D<D>         errors against double
//   mixture/<mask>/f<percent> 8 heads, half of the rows        x_all: over backward of all rows
// pct_fwd is forward's share of the peak, on 4 N M D FLOPs, pct_bwd backward's, on 10 N M D; bwd_fwd is their quotient,
// all from medians of pairs timed one after the other.
#include "support/eigen_baseline.hpp"

#include "softmax_options.hpp"
#include "support/backward.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "heed/mixture_of_head.hpp"
#include "heed/reference/softmax.hpp"
#include "heed/softmax.hpp"
#include "support/numbers.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/shapes.hpp"
#include "support/two_threads.hpp"

namespace {

using namespace heed_bench;
using benchmark::Counter;
using benchmark::State;

// Sets the shares of the peak of forward and backward.
template <class T>
void set_shares(State& state, const shape& s, const std::vector<double>& forward, const std::vector<double>& backward) {
  std::vector<double> quotients;
  for (std::size_t i = 0; i < forward.size(); ++i)
    quotients.push_back(backward_flops(s) / backward[i] / (s.flops() / forward[i]));
  const double peak = best_peak<T>() * 1e9;
  if (has_meters) {
    state.counters["pct_fwd"] = 100 * s.flops() / median(forward) / peak;
    state.counters["pct_bwd"] = 100 * backward_flops(s) / median(backward) / peak;
  }
  state.counters["bwd_fwd"] = median(quotients);
  state.counters["GFLOP/s"] = Counter(backward_flops(s) * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["tokens/s"] = Counter(static_cast<double>(s.n), Counter::kIsIterationInvariantRate);
}

template <class T = float> void add_pair(const std::string& row_name, const shape& s) {
  add(row_name, [s](State& state, const std::string& row) {
    show_progress(row);
    gradient_tensors<T> x(s);
    std::vector<double> forward, backward;
    x.backward();
    for (auto _ : state) {
      forward.push_back(seconds_of([&] { x.forward(); }));
      backward.push_back(seconds_of([&] { x.backward(); }));
      state.SetIterationTime(backward.back());
    }
    set_shares<T>(state, s, forward, backward);
    state.SetLabel(heed::softmax::plan_backward(x.x.q_view(), x.x.k_view(), x.x.v_view(), x.x.o_view(), x.dout_view(),
                                                x.wanted(), x.options())
                       .path);
  })->UseManualTime();
  const double all_pairs = static_cast<double>(s.heads * s.n * s.m);
  const auto add_other = [&](const char* suffix, auto call) {
    add(row_name + suffix, [s, call](State& state, const std::string& row) {
      show_progress(row);
      gradient_tensors<T> x(s);
      for (auto _ : state) state.SetIterationTime(seconds_of([&] { call(x); }));
      state.counters["GFLOP/s"] = Counter(backward_flops(s) * 1e-9, Counter::kIsIterationInvariantRate);
    })->UseManualTime();
  };
  if (all_pairs <= 4096.0 * 4096.0)
    add_other("/eigen", [](gradient_tensors<T>& x) {
      eigen_backward<T> run(x.at());
      run(x);
    });
  if (all_pairs <= 1024.0 * 1024.0) add_other("/naive", [](gradient_tensors<T>& x) { naive_backward(x); });
}

void add_shapes() {
  for (const masking mask : {masking::dense, masking::causal, masking::window})
    for (const index_t d : {32, 64, 80, 128})
      for (const index_t n : {64, 256, 1024, 2048, 8192})
        add_pair(std::string(name(mask)) + number("/D", d) + number("/N", n),
                 {.n = n, .m = n, .d = d, .e = d, .mask = mask});
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      add_pair(std::string("gqa/") + name(mask) + number("/D", d) + "/N1024",
               {.n = 1024, .m = 1024, .d = d, .e = d, .heads = 8, .kv_heads = 2, .mask = mask});
  for (const index_t n : {256, 1024}) add_pair<double>(number("double/D64/N", n), {.n = n, .m = n});
}

// Adds rows of one thing over another, both timed in every iteration.
template <class Make> void add_ratio(const std::string& row_name, const char* counter, Make make) {
  add(row_name, [=](State& state, const std::string& row) {
    show_progress(row);
    auto calls = make();
    std::vector<double> ratios;
    calls->first(), calls->second();
    for (auto _ : state) {
      const double a = seconds_of([&] { calls->first(); });
      ratios.push_back(a / seconds_of([&] { calls->second(); }));
      state.SetIterationTime(a);
    }
    state.counters[counter] = median(ratios);
  })->UseManualTime();
}

struct option_calls {
  std::unique_ptr<option_case> chosen;
  gradient_tensors<float> x, y;
  std::vector<float> dbias;
  heed::softmax::options<float> options;
  heed::softmax::gradients<float> wanted;

  option_calls(const std::string& name, const shape& s)
      : chosen(option_named(name, s)), x(s), y(s), options(chosen->options) {
    options.lse = x.lse_view(), wanted = x.wanted();
    if (name == "score")
      options.score = {[](float score, const heed::position&) { return 0.5f * score + 1; },
                       [](float, const heed::position&) { return 0.5f; }};
    if (options.bias.data() != nullptr) {
      const auto& b = options.bias;
      dbias.resize(chosen->numbers.size());
      wanted.dbias = {dbias.data() + (b.data() - chosen->numbers.data()), b.extents(), b.strides()};
    }
    heed::softmax::forward(x.x.q_view(), x.x.k_view(), x.x.v_view(), x.x.o_view(), options);
  }
  void first() {
    heed::softmax::backward(x.x.q_view(), x.x.k_view(), x.x.v_view(), x.x.o_view(), x.dout_view(), wanted, options);
  }
  void second() { y.backward(); }
};

void add_options() {
  for (const char* option : {"softcap", "alibi", "bias", "bias/over_rows", "bias/toeplitz", "score", "sinks"})
    add_ratio(std::string("options/") + option, "x_plain",
              [=] { return std::make_unique<option_calls>(option, shape{.n = 2048, .m = 2048}); });
}

struct part_calls {
  gradient_tensors<float> x;
  heed::softmax::gradients<float> some;
  void first() {
    heed::softmax::backward(x.x.q_view(), x.x.k_view(), x.x.v_view(), x.x.o_view(), x.dout_view(), some, x.options());
  }
  void second() { x.backward(); }
};

void add_parts() {
  for (const char* part : {"dq", "dv", "dk_dv"})
    add_ratio(std::string("part/") + part + "/D64", "x_all", [=] {
      auto calls = std::make_unique<part_calls>(part_calls{gradient_tensors<float>({.n = 2048, .m = 2048}), {}});
      const auto all = calls->x.wanted();
      const std::string name = part;
      if (name == "dq") calls->some.dq = all.dq;
      if (name != "dq") calls->some.dv = all.dv;
      if (name == "dk_dv") calls->some.dk = all.dk;
      return calls;
    });
}

// Token-major tensors of 8 heads, and the same numbers head by head
struct layout_calls {
  shape s;
  std::vector<float> numbers[8], lse;
  heed::softmax::options<float> options;
  heed::tensor_view<float, 4> a[8], b[8];  // q k v o dout dq dk dv

  explicit layout_calls(const shape& at, index_t padding) : s(at), lse(static_cast<std::size_t>(s.heads * s.n)) {
    gradient_tensors<float> x(s);
    std::uint32_t seed = 5;
    for (int i = 0; i < 8; ++i) {
      const index_t row = s.d + padding, count = s.heads * s.n * row;
      numbers[i].resize(static_cast<std::size_t>(2 * count));
      for (float& value : numbers[i])
        seed = seed * 1664525u + 1013904223u, value = static_cast<float>(seed >> 8) * 0x1p-23f - 1;
      a[i] = padding == 0
                 ? heed::bshd(numbers[i].data(), 1, s.n, s.heads, s.d)
                 : heed::tensor_view<float, 4>(numbers[i].data(), {1, s.heads, s.n, s.d}, {count, s.n * row, row, 1});
      b[i] = heed::bhsd(numbers[i].data() + count, 1, s.heads, s.n, s.d);
    }
    options.lse = heed::contiguous(lse.data(), {index_t{1}, s.heads, s.n});
    heed::softmax::forward(a[0], a[1], a[2], a[3], options);
  }
  void run(heed::tensor_view<float, 4>* x) {
    heed::softmax::backward(x[0], x[1], x[2], x[3], x[4], {.dq = x[5], .dk = x[6], .dv = x[7]}, options);
  }
  void first() { run(a); }
  void second() { run(b); }
};

void add_layouts() {
  for (const index_t d : {64, 128})
    for (const index_t padding : {0, 16})
      add_ratio(std::string("layout/") + (padding == 0 ? "bshd" : "padded") + number("/D", d), "x_bhsd", [=] {
        return std::make_unique<layout_calls>(shape{.n = 1024, .m = 1024, .d = d, .e = d, .heads = 8, .kv_heads = 8},
                                              padding);
      });
}

struct number_calls {
  gradient_tensors<float> x, y;
  double scale = 0;
  void first() {
    auto options = x.options();
    if (scale > 0) options.scale = scale;
    heed::softmax::backward(x.x.q_view(), x.x.k_view(), x.x.v_view(), x.x.o_view(), x.dout_view(), x.wanted(), options);
  }
  void second() { y.backward(); }
};

void add_numbers_rows() {
  for (const char* kind : {"scale8", "subnormal_q", "subnormal_dout", "nan_q", "nan_k"})
    for (const masking mask : {masking::dense, masking::causal})
      add_ratio(std::string("numbers/") + name(mask) + "/" + kind, "x_mild", [=] {
        const shape s{.n = 768, .m = 768, .mask = mask};
        auto calls =
            std::make_unique<number_calls>(number_calls{gradient_tensors<float>(s), gradient_tensors<float>(s)});
        auto& x = calls->x;
        const std::string what = kind;
        if (what == "scale8") calls->scale = 8;
        if (what == "subnormal_q") make_subnormal(x.x.q);
        if (what == "subnormal_dout") make_subnormal(x.dout);
        if (what == "nan_q") x.x.q[3] = std::numeric_limits<float>::quiet_NaN();
        if (what == "nan_k") x.x.k[3] = std::numeric_limits<float>::quiet_NaN();
        auto options = x.options();
        if (calls->scale > 0) options.scale = calls->scale;
        heed::softmax::forward(x.x.q_view(), x.x.k_view(), x.x.v_view(), x.x.o_view(), options);
        return calls;
      });
}

void add_thread_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t heads : {1, 8})
      add(std::string("threads/") + name(mask) + number("/H", heads),
          [mask, heads](State& state, const std::string& row) {
            show_progress(row);
            static two_threads pool;
            gradient_tensors<float> x({.n = 2048, .m = 2048, .heads = heads, .kv_heads = heads, .mask = mask});
            std::vector<double> ours, peaks;
            x.backward();
            for (auto _ : state) {
              const double one = seconds_of([&] { x.backward(); }, now);
              const double two = seconds_of([&] { x.backward({.executor = pool}); }, now);
              const auto peak = [](index_t) { run_multiply_adds<float>(1'000'000); };
              const double peak_one = seconds_of([&] { peak(0); }, now);
              const double peak_two = seconds_of([&] { pool.parallel_for(2, peak); }, now);
              state.SetIterationTime(two);
              ours.push_back(one / two), peaks.push_back(2 * peak_one / peak_two);
            }
            state.counters["x_one_thread"] = median(ours), state.counters["x_one_peak"] = median(peaks);
          })
          ->UseManualTime()
          ->MinTime(0.2);
}

void add_accuracy_rows() {
  for (const index_t d : {64, 128})
    add(number("accuracy/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      const shape s{.n = 512, .m = 1024, .d = d, .e = d, .mask = masking::causal};
      gradient_tensors<float> x(s);
      gradient_tensors<double> exact(s);
      exact.x.q.assign(x.x.q.begin(), x.x.q.end()), exact.x.k.assign(x.x.k.begin(), x.x.k.end());
      exact.x.v.assign(x.x.v.begin(), x.x.v.end()), exact.dout.assign(x.dout.begin(), x.dout.end());
      heed::reference::softmax::backward(exact.x.q_view(), exact.x.k_view(), exact.x.v_view(), exact.x.o_view(),
                                         exact.dout_view(), exact.wanted(), exact.options());
      const auto rms = [](const std::vector<float>& a, const std::vector<double>& b) {
        double sum = 0;
        for (std::size_t i = 0; i < b.size(); ++i)
          sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        return std::sqrt(sum / static_cast<double>(b.size()));
      };
      naive_backward(x);
      const double naive[] = {rms(x.dq, exact.dq), rms(x.dk, exact.dk), rms(x.dv, exact.dv)};
      for (auto _ : state) x.backward();
      state.counters["dq_x_naive"] = rms(x.dq, exact.dq) / naive[0];
      state.counters["dk_x_naive"] = rms(x.dk, exact.dk) / naive[1];
      state.counters["dv_x_naive"] = rms(x.dv, exact.dv) / naive[2];
      state.counters["rms_dq"] = rms(x.dq, exact.dq);
    });
}

// Half of the rows of 8 heads, here and there, over all of them
struct mixture_calls {
  gradient_tensors<float> x, y;
  std::vector<float> gates, dgates;

  mixture_calls(const shape& s, int percent) : x(s), y(s), gates(x.lse.size()), dgates(x.lse.size()) {
    std::uint32_t seed = 11;
    for (float& gate : gates)
      seed = seed * 1664525u + 1013904223u, gate = static_cast<int>(seed >> 16) % 100 < percent ? 1.f : 0.f;
    heed::mixture_of_head::forward(x.x.q_view(), x.x.k_view(), x.x.v_view(), gate_view(), x.x.o_view(), x.options());
  }
  heed::tensor_view<const float, 3> gate_view() const {
    return {gates.data(), {1, x.at().heads, x.at().n}, {0, x.at().n, 1}};
  }
  void first() {
    const auto all = x.wanted();
    heed::mixture_of_head::backward(x.x.q_view(), x.x.k_view(), x.x.v_view(), gate_view(), x.x.o_view(), x.dout_view(),
                                    {.dq = all.dq,
                                     .dk = all.dk,
                                     .dv = all.dv,
                                     .dgates = heed::contiguous(dgates.data(), {index_t{1}, x.at().heads, x.at().n})},
                                    x.options());
  }
  void second() { y.backward(); }
};

void add_mixture_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const int percent : {25, 50, 75})
      add_ratio(std::string("mixture/") + name(mask) + number("/f", percent), "x_all", [=] {
        return std::make_unique<mixture_calls>(shape{.n = 2048, .m = 2048, .heads = 8, .kv_heads = 8, .mask = mask},
                                               percent);
      });
}

}  // namespace

int main(int argc, char** argv) {
  add_shapes();
  add_parts();
  add_options();
  add_layouts();
  add_numbers_rows();
  add_mixture_rows();
  add_thread_rows();
  add_accuracy_rows();
  return run_all(argc, argv);
}
