// SPDX-License-Identifier: BSD-3-Clause
//
// Times lightning::forward and decode beside chunked Eigen products, plain loops, softmax, and the limits of the
// machine. FLOPs are nominal for heed and its neighbours, 4 D E + 65 (D + E) per token and head, whatever the chunk.
// `counted` is the work that heed's chunks really multiply, padding included, over the nominal work: % peak times
// counted tells how busy the multipliers are. Calls of few tokens can pass 100 % of the peak, because their first chunk
// reads no state. Rows:
//   prefill/D<D>/N<N>           one head, E = D               huge/D<D>/N<N>       the same in pages of 2 MiB
//   chunk/D<D>/C<C>             chunks of C tokens            gates/D<D>           log_gates, in times of slopes
//   threads/H<H>/D<D>           two threads at N = 65536      decode/D<D>          one token, 8 heads
//   softmax/D<D>/N<N>           beside causal softmax         zeros/D<D>           10^5 tokens of zeros
//   accuracy/D<D>               error against double          numbers/             long decays, subnormal numbers, NaN
//   layout/...                  see support/layout.hpp     backward/...          see support/backward_rows.hpp
// The softmax rows of 65536 and 262144 tokens run once and take five minutes. --benchmark_filter=REGEX chooses rows,
// --benchmark_out=FILE writes JSON for plot.py.
#include "support/backward_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "heed/reference/lightning.hpp"
#include "heed/reference/lightning_backward.hpp"
#include "heed/simd/batch.hpp"
#include "support/layout.hpp"
#include "support/numbers.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/two_threads.hpp"

namespace {

using namespace heed_bench;
using benchmark::Counter;
using benchmark::State;
using options = heed::lightning::options<float>;
using tensors_of = recurrent_tensors<float>;

void run(const tensors_of& x, const heed::decay<float>& decay, const options& how, const heed::context& where) {
  heed::lightning::forward(x.q_view(), x.k_view(), x.v_view(), decay, x.o_view(), how, where);
}
void run(const tensors_of& x, const options& how = {}, const heed::context& where = {}) {
  run(x, x.slopes, how, where);
}

void add_call(const std::string& name, const recurrent_shape& s, const options& how, bool huge) {
  add(name, [=](State& state, const std::string& row) {
    const tensors_of x(s, huge);
    const heed::plan plan =
        heed::lightning::plan_forward(x.q_view(), x.k_view(), x.v_view(), x.slopes, x.o_view(), how);
    std::vector<std::byte> bytes(plan.workspace_bytes);
    const double counted = s.counted_flops(plan.chunk, heed::simd::width<float>);
    time_row<float>(
        state, row, s, [&] { run(x, how, {.workspace = bytes}); }, counted);
    state.SetLabel(std::string(plan.path) + " " + plan.isa + " chunk " + std::to_string(plan.chunk));
    state.counters["counted"] = counted / s.flops();
  });
}

void add_forward_rows() {
  for (const index_t d : {64, 128})
    for (index_t n = 64; n <= 262144; n *= 4) {
      const recurrent_shape s{.n = n, .d = d, .e = d};
      const std::string name = number("prefill/D", d) + number("/N", n);
      add_call(name, s, {}, false);
      if (n >= 1024) add_call(number("huge/D", d) + number("/N", n), s, {}, true);
      if (n > 16384) continue;
      add(name + "/eigen", [s](State& state, const std::string& row) {
        tensors_of x(s);
        eigen_lightning<float> eigen(s);
        time_row<float>(state, row, s, [&] { eigen(x); });
      });
      if (n > 1024) continue;
      add(name + "/naive", [s](State& state, const std::string& row) {
        tensors_of x(s);
        std::vector<float> memory;
        time_row<float>(state, row, s, [&] { naive_lightning(x, memory); });
      });
    }
  for (const index_t d : {64, 128})
    for (const index_t c : {8, 16, 32, 48, 64, 128, 256})
      add_call(number("chunk/D", d) + number("/C", c), {.n = 4096, .d = d, .e = d}, {.chunk = c}, false);
}

// Rows that compare two things time both in every iteration, one after the other.

void add_gate_rows() {
  for (const index_t d : {64, 128})
    add(number("gates/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      const tensors_of x({.n = 4096, .d = d, .e = d});
      std::vector<double> ratios;
      for (auto _ : state) {
        const double a = seconds_of([&] { run(x, x.gate_decay(), {}, {}); });
        const double b = seconds_of([&] { run(x); });
        state.SetIterationTime(a);
        ratios.push_back(a / b);
      }
      set_rates<float>(state, x.at);
      state.counters["x_slopes"] = median(ratios);
    })->UseManualTime();
}

// Adds rows of 10^5 tokens of zeros on a decaying state, over as many tokens of other numbers.
void add_zero_rows() {
  for (const index_t d : {64, 128})
    add(number("zeros/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      const tensors_of x({.n = 100000, .d = d, .e = d}), zeros({.n = 100000, .d = d, .e = d});
      std::fill(zeros.k.begin(), zeros.k.end(), 0.0f);
      heed::state<float> memory(1, 1, d, d);
      const std::vector<double> slope{0.01};
      std::vector<double> ratios;
      for (auto _ : state) {
        const options keep{.initial_state = memory, .final_state = memory};
        const double b = seconds_of([&] { run(x, slope, keep, {}); });
        const double a = seconds_of([&] { run(zeros, slope, keep, {}); });
        state.SetIterationTime(a);
        ratios.push_back(a / b);
      }
      set_rates<float>(state, x.at);
      state.counters["x_numbers"] = median(ratios);
    })->UseManualTime();
}

void add_thread_rows() {
  for (const index_t heads : {1, 4})
    for (const index_t d : {64, 128})
      add(number("threads/H", heads) + number("/D", d),
          [heads, d](State& state, const std::string& row) {
            show_progress(row);
            static two_threads pool;
            const tensors_of x({.n = 65536, .d = d, .e = d, .heads = heads});
            std::vector<double> ours, peaks;
            for (auto _ : state) {
              const double one = seconds_of([&] { run(x); }, now);
              const double two = seconds_of([&] { run(x, {}, {.executor = pool}); }, now);
              const auto peak = [](index_t) { run_multiply_adds<float>(1'000'000); };
              const double peak_one = seconds_of([&] { peak(0); }, now);
              const double peak_two = seconds_of([&] { pool.parallel_for(2, peak); }, now);
              state.SetIterationTime(two);
              ours.push_back(one / two);
              peaks.push_back(2 * peak_one / peak_two);
            }
            set_rates<float>(state, x.at);
            state.counters["x_one_thread"] = median(ours);
            state.counters["x_one_peak"] = median(peaks);
          })
          ->UseManualTime()
          ->MinTime(0.2);
}

// Reads, changes and writes every number of the state: the least that a new token costs.
void read_modify_write(float* x, index_t count) {
  namespace simd = heed::simd;
  constexpr index_t w = simd::width<float>;
  const simd::batch<float> left(0.999f), added(1e-3f);
  for (index_t i = 0; i < count; i += 4 * w)
    for (index_t y = i; y < i + 4 * w; y += w) simd::store(x + y, simd::fma(simd::load(x + y), left, added));
}

// Adds rows of one new token for 8 heads, beside the time of the loop above over the same bytes.
void add_decode_rows() {
  for (const index_t d : {64, 128})
    add(number("decode/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      constexpr index_t heads = 8;
      const tensors_of x({.n = 1, .d = d, .e = d, .heads = heads});
      heed::state<float> memory(1, heads, d, d);
      std::vector<float> other(static_cast<std::size_t>(heads * d * d), 1.0f);
      const int repeats = 50;  // back to back, unlike the layers of a model, to measure the loop alone
      std::vector<double> shares;
      for (auto _ : state) {
        const double a = seconds_of([&] {
          for (int i = 0; i < repeats; ++i)
            heed::lightning::decode(x.q_view(), x.k_view(), x.v_view(), x.slopes, memory, x.o_view());
        });
        const double b = seconds_of([&] {
          for (int i = 0; i < repeats; ++i) read_modify_write(other.data(), heads * d * d), benchmark::ClobberMemory();
        });
        state.SetIterationTime(a / repeats);
        shares.push_back(b / a);
      }
      const double bytes = 2.0 * static_cast<double>(heads * d * d) * sizeof(float);
      state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
      state.counters["tokens/s"] = Counter(1, Counter::kIsIterationInvariantRate);
      state.counters["x_read_modify_write"] = median(shares);
    })->UseManualTime();
}

// Adds rows of causal softmax of the same shape. The crossover is where x_softmax passes 1.
void add_softmax_rows() {
  for (const index_t d : {64, 128})
    for (const index_t n : {64, 96, 128, 192, 256, 384, 512, 1024, 4096, 16384, 65536, 262144}) {
      auto* const added = add(number("softmax/D", d) + number("/N", n), [d, n](State& state, const std::string& row) {
        show_progress(row);
        const tensors_of x({.n = n, .d = d, .e = d});
        std::vector<double> ratios;
        double softmax = 0;
        for (auto _ : state) {
          const double a = seconds_of([&] { run(x); });
          const double b = seconds_of([&] {
            heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), {.mask = heed::causal()});
          });
          state.SetIterationTime(a);
          ratios.push_back(b / a), softmax += b;
        }
        set_rates<float>(state, x.at);
        state.counters["x_softmax"] = median(ratios);
        state.counters["softmax_tokens/s"] = static_cast<double>(n * state.iterations()) / softmax;
      });
      added->UseManualTime();
      if (n >= 65536) added->Iterations(1)->Repetitions(1);
    }
}

void add_accuracy_rows() {
  for (const index_t d : {64, 128})
    add(number("accuracy/D", d), [d](State& state, const std::string& row) {
      show_progress(row);
      tensors_of x({.n = 2048, .d = d, .e = d});
      std::vector<double> exact(static_cast<std::size_t>(x.at.n * d));
      heed::reference::lightning::forward(x.q_view(), x.k_view(), x.v_view(), x.slopes,
                                          heed::bhsd(exact.data(), 1, 1, x.at.n, d));
      const auto rms = [&] {
        double sum = 0;
        for (std::size_t i = 0; i < exact.size(); ++i) {
          const double error = static_cast<double>(x.o.data()[i]) - exact[i];
          sum += error * error;
        }
        return std::sqrt(sum / static_cast<double>(exact.size()));
      };
      std::vector<float> memory;
      naive_lightning(x, memory);
      const double naive = rms();
      for (auto _ : state) run(x);
      state.counters["rms"] = rms();
      state.counters["rms_naive"] = naive;
      state.counters["rms_ratio"] = rms() / naive;
    });
}

// Holds the arguments of a call of lightning attention: a slope, or gates, and the options.
struct lightning_call {
  double slope = 0.01;
  bool gated = false, steps = false;  // steps: decode
};

double run_numbers(tensors_of& x, const lightning_call& how) {
  static heed::state<float> memory(1, 1, 64, 64);
  const std::vector<double> slope{how.slope};
  const heed::decay<float> decay = how.gated ? x.gate_decay() : heed::decay<float>(slope);
  if (how.steps)
    memory.reset(), heed::lightning::decode(x.q_view(), x.k_view(), x.v_view(), decay, memory, x.o_view());
  else
    run(x, decay, {}, {});
  return 0;
}

void add_numbers_rows() {
  for (const bool steps : {false, true}) {
    const recurrent_shape s{.n = numbers_n, .d = 64, .e = 64};
    const auto row = [&](const std::string& name, auto hard, auto mild) {
      add_numbers<tensors_of>((steps ? "decode/" : "") + name, s, lightning_call{}, run_numbers,
                              [=](tensors_of& x, lightning_call& how) { how.steps = steps, hard(x, how); },
                              [=](lightning_call& how) { how.steps = steps, mild(how); });
    };
    const auto same = [](lightning_call&) {};
    for (const int slope : {1, 4, 16})
      row(
          number("slope", slope), [=](tensors_of&, lightning_call& how) { how.slope = slope; }, same);
    row(
        "zeros_after_16",
        [](tensors_of& x, lightning_call& how) {
          how.slope = 0.2;
          std::fill(x.k.begin() + 16 * 64, x.k.end(), 0.0f);
        },
        same);
    row(
        "gates_of_8",
        [](tensors_of& x, lightning_call& how) {
          how.gated = true;
          for (float& g : x.gates) g = -8;
        },
        [](lightning_call& how) { how.gated = true; });
    row(
        "subnormal_gates", [](tensors_of& x, lightning_call& how) { how.gated = true, make_subnormal(x.gates); },
        [](lightning_call& how) { how.gated = true; });
    row(
        "subnormal_q", [](tensors_of& x, lightning_call&) { make_subnormal(x.q); }, same);
    row(
        "subnormal_k", [](tensors_of& x, lightning_call&) { make_subnormal(x.k); }, same);
    row(
        "subnormal_v", [](tensors_of& x, lightning_call&) { make_subnormal(x.v); }, same);
    row(
        "nan_v", [](tensors_of& x, lightning_call&) { *x.v.begin() = std::numeric_limits<float>::quiet_NaN(); }, same);
  }
}

void add_layouts() {
  add_layout_rows(
      "",
      [](const laid_tensors& x) {
        const std::vector<double> slopes = heed::alibi_slopes(x.at.used);
        heed::lightning::forward(x.q, x.k, x.v, slopes, x.o);
      },
      [](const laid_shape& s) { return recurrent_shape{.n = s.n, .d = s.d, .e = s.d}.flops(); });
}

struct backward_calls {
  static constexpr bool normalised = false;

  static void forward(const backward_tensors<float>& x, const heed::context& where) { run(x, {}, where); }
  static void backward(const backward_tensors<float>& x, const heed::context& where) {
    heed::lightning::backward(x.q_view(), x.k_view(), x.v_view(), x.slopes, x.dout_view(),
                              x.gradients<heed::lightning::gradients<float>>(), {}, where);
  }
  static heed::plan plan(const backward_tensors<float>& x) {
    return heed::lightning::plan_backward(x.q_view(), x.k_view(), x.v_view(), x.slopes, x.dout_view(),
                                          x.gradients<heed::lightning::gradients<float>>());
  }
  static void reference(const backward_tensors<double>& x) {
    heed::reference::lightning::backward(x.q_view(), x.k_view(), x.v_view(), x.slopes, x.dout_view(),
                                         x.gradients<heed::lightning::gradients<double>>());
  }
};

}  // namespace

int main(int argc, char** argv) {
  add_forward_rows();
  add_gate_rows();
  add_thread_rows();
  add_decode_rows();
  add_zero_rows();
  add_softmax_rows();
  add_layouts();
  add_accuracy_rows();
  add_numbers_rows();
  backward_rows<backward_calls>::add_all();
  return run_all(argc, argv);
}
