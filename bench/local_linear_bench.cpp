// SPDX-License-Identifier: BSD-3-Clause
//
// Times local_linear::forward beside softmax::forward on the same tensors, in the same iterations, and backward beside
// forward. Rows:
//   forward/<mask>/D<D>/N<N>/ridge<r>   automatic, tolerance 1e-5; one head, M = N, E = D
//   eigen/D<D>/N<N>                     the formula with Eigen, float, a matrix and an LDLT per row; x_heed: over heed
//   solver/<name>/D<D>/M<M>/ridge<r>    64 queries, few and many keys, each solver
//   apply/D<D>/N<N>                     apply, on given slopes
//   threads/D<D>                        two threads
//   numbers/, numbers/apply/            sharp logits, subnormal numbers, NaN; ridge 1
//   layout/...                          ridge 1, up to 1024 tokens, see support/layout.hpp
//   backward/<mask>/D<D>/N<N>/ridge<r>  dq, dk, dv; x_forward: with lse, slope and mean_key of forward, x_forward_alone
//                                       without; x_forward_dq: dq, with them. T, T_forward: mean iterations
//   backward/eigen/D<D>/N<N>            the same gradients with Eigen, a matrix and an LDLT per row; x_heed: over heed
//   backward/threads/D<D>               two threads
//   accuracy/<solver>/D<D>/ridge<r>     RMS errors of gradients over those of plain float loops with the same solver
// Counters: x_softmax is the time over softmax's, and T the mean iterations of a tile. budget is x_softmax over 1.5 T +
// 2.5 (every pass computes its weights again), budget_kept over 1.05 T + 3 (heed keeps the weights). error is the
// largest |o - reference| over the largest |o|, of 16 rows. scratch is the memory of one thread, naive_MB that of N D x
// D matrices.
#include "support/eigen_baseline.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "heed/local_linear.hpp"
#include "heed/reference/local_linear.hpp"
#include "heed/reference/local_linear_backward.hpp"
#include "heed/softmax.hpp"
#include "support/layout.hpp"
#include "support/local_linear_backward.hpp"
#include "support/numbers.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/shapes.hpp"
#include "support/two_threads.hpp"

namespace {

using namespace heed_bench;
using benchmark::State;
using options = heed::local_linear::options<float>;

options solved(const shape& s, heed::local_linear::report& report) {
  options how;
  how.mask = options_of<float>(s).mask;
  how.report = &report;
  return how;
}

std::string text(double x) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%g", x);
  return digits;
}

// Returns the largest error of 16 rows beside the reference, over their largest |o|. The rows are the batch of a call.
double error_of(const tensors<float>& x, double ridge, const heed::mask& mask) {
  const shape& s = x.at;
  constexpr index_t rows = 16;
  const index_t apart = s.n / rows, first = apart - 1;
  std::vector<std::int32_t> place(rows);
  for (index_t i = 0; i < rows; ++i) place[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(first + i * apart);
  const heed::tensor_view<const float, 4> q(x.q.data() + first * s.d, {rows, 1, 1, s.d}, {apart * s.d, 0, s.d, 1});
  std::vector<double> exact(static_cast<std::size_t>(rows * s.e));
  heed::local_linear::options<float> how;
  how.mask = mask, how.align = heed::first_place(place);
  heed::reference::local_linear::forward(q, heed::broadcast(x.k_view(), 0, rows), heed::broadcast(x.v_view(), 0, rows),
                                         ridge, heed::bhsd(exact.data(), rows, 1, 1, s.e), how);
  double worst = 0, largest = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t e = 0; e < s.e; ++e) {
      const double want = exact[static_cast<std::size_t>(i * s.e + e)];
      const double got = static_cast<double>(x.o[static_cast<std::size_t>((first + i * apart) * s.e + e)]);
      worst = std::max(worst, std::abs(got - want)), largest = std::max(largest, std::abs(want));
    }
  return worst / largest;
}

std::size_t scratch_of(tensors<float>& x) {
  return heed::local_linear::plan_forward(x.q_view(), x.k_view(), x.v_view(), 1.0, x.o_view()).workspace_bytes;
}

void add_forward_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      for (const index_t n : {256, 1024, 4096, 8192})
        for (const double ridge : {1.0, 0.1})
          add(std::string("forward/") + name(mask) + number("/D", d) + number("/N", n) + "/ridge" + text(ridge),
              [=](State& state, const std::string& row) {
                show_progress(row);
                const shape s{.n = n, .m = n, .d = d, .e = d, .mask = mask};
                tensors<float> x(s);
                heed::local_linear::report report;
                const options how = solved(s, report);
                const heed::softmax::options<float> plain = options_of<float>(s);
                const auto softmax = [&] {
                  heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), plain);
                };
                std::vector<double> ratios;
                for (auto _ : state) {  // softmax before and after: a change of speed affects both
                  const double before = seconds_of(softmax);
                  const double ours = seconds_of(
                      [&] { heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), ridge, x.o_view(), how); });
                  const double after = seconds_of(softmax);
                  state.SetIterationTime(ours);
                  ratios.push_back(2 * ours / (before + after));
                }
                heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), ridge, x.o_view(), how);
                const double t = report.mean_tile_iterations;
                set_rates<float>(state, s);
                state.counters.erase("GFLOP/s"), state.counters.erase("GB/s");
                state.counters["x_softmax"] = median(ratios);
                state.counters["T"] = t;
                state.counters["budget"] = median(ratios) / (1.5 * t + 2.5);
                state.counters["budget_kept"] = median(ratios) / (1.05 * t + 3);
                state.counters["direct_rows"] = static_cast<double>(report.direct_rows);
                state.counters["error"] = error_of(x, ridge, how.mask);
                state.counters["naive_MB"] = static_cast<double>(n * d * d) * sizeof(float) / 1e6;
                state.SetLabel("scratch " + std::to_string(scratch_of(x)));
              })
              ->UseManualTime();
}

void add_solver_rows() {
  using heed::local_linear::solver;
  constexpr std::pair<const char*, solver> solvers[] = {
      {"automatic", solver::automatic}, {"conjugate_gradient", solver::conjugate_gradient}, {"direct", solver::direct}};
  for (const auto& [title, kind] : solvers)
    for (const double ridge : {1.0, 0.01})
      for (const index_t d : {8, 32, 64, 128})
        for (const index_t m : {8, 16, 32, 64, 256, 1024})
          add(std::string("solver/") + title + number("/D", d) + number("/M", m) + "/ridge" + text(ridge),
              [=, chosen = kind](State& state, const std::string& row) {
                show_progress(row);
                const shape s{.n = 64, .m = m, .d = d, .e = d};
                tensors<float> x(s);
                heed::local_linear::report report;
                options how = solved(s, report);
                how.solver = chosen;
                for (auto _ : state)
                  heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), ridge, x.o_view(), how);
                state.counters["T"] = report.mean_tile_iterations;
                state.counters["unconverged"] = static_cast<double>(report.unconverged);
                state.counters["direct_rows"] = static_cast<double>(report.direct_rows);
              });
}

void add_apply_rows() {
  for (const index_t d : {64, 128})
    for (const index_t n : {1024, 4096})
      add(number("apply/D", d) + number("/N", n), [=](State& state, const std::string& row) {
        show_progress(row);
        const shape s{.n = n, .m = n, .d = d, .e = d};
        tensors<float> x(s);
        std::vector<double> ratios;
        for (auto _ : state) {
          const double ours = seconds_of(
              [&] { heed::local_linear::apply(x.q_view(), x.k_view(), x.v_view(), x.q_view(), x.o_view()); });
          const double plain =
              seconds_of([&] { heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view()); });
          state.SetIterationTime(ours);
          ratios.push_back(ours / plain);
        }
        state.counters["x_softmax"] = median(ratios);
      })->UseManualTime();
}

// Computes one matrix per query, as an author of a model would write it first.
void regress_rows(tensors<float>& x, float ridge) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const shape& s = x.at;
  const Eigen::Map<const matrix> q(x.q.data(), s.n, s.d), k(x.k.data(), s.m, s.d), v(x.v.data(), s.m, s.e);
  Eigen::Map<matrix> o(x.o.data(), s.n, s.e);
  Eigen::VectorXf p(s.m), y(s.d);
  matrix centred(s.m, s.d), c(s.d, s.d);
  for (index_t i = 0; i < s.n; ++i) {
    p.noalias() = k * q.row(i).transpose() / std::sqrt(static_cast<float>(s.d));
    p = (p.array() - p.maxCoeff()).exp();
    p /= p.sum();
    const Eigen::RowVectorXf mean = p.transpose() * k;
    centred = k.rowwise() - mean;
    c.noalias() = centred.transpose() * p.asDiagonal() * centred;
    c.diagonal().array() += ridge;
    y = c.ldlt().solve((q.row(i) - mean).transpose());
    p.array() *= 1 + (centred * y).array();
    o.row(i).noalias() = p.transpose() * v;
  }
}

void add_eigen_rows() {
  for (const index_t d : {64, 128})
    add(number("eigen/D", d) + "/N1024", [=](State& state, const std::string& row) {
      show_progress(row);
      const shape s{.n = 1024, .m = 1024, .d = d, .e = d};
      tensors<float> x(s);
      std::vector<double> ratios;
      for (auto _ : state) {
        const double theirs = seconds_of([&] { regress_rows(x, 1); });
        const double ours =
            seconds_of([&] { heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), 1.0, x.o_view()); });
        state.SetIterationTime(theirs);
        ratios.push_back(theirs / ours);
      }
      state.counters["x_heed"] = median(ratios);
    })->UseManualTime();
}

void add_thread_rows() {
  for (const index_t d : {64, 128})
    add(number("threads/D", d), [=](State& state, const std::string& row) {
      show_progress(row);
      static two_threads pool;
      const shape s{.n = 2048, .m = 2048, .d = d, .e = d, .mask = masking::causal};
      tensors<float> x(s);
      options how;
      how.mask = options_of<float>(s).mask;
      std::vector<double> ours, peaks;
      for (auto _ : state) {
        const auto run = [&](const heed::context& where) {
          heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), 1.0, x.o_view(), how, where);
        };
        const double one = seconds_of([&] { run({}); }, now);
        const double two = seconds_of([&] { run({.executor = pool}); }, now);
        const auto peak = [](index_t) { run_multiply_adds<float>(1'000'000); };
        const double peak_one = seconds_of([&] { peak(0); }, now);
        const double peak_two = seconds_of([&] { pool.parallel_for(2, peak); }, now);
        state.SetIterationTime(two);
        ours.push_back(one / two);
        peaks.push_back(2 * peak_one / peak_two);
      }
      state.counters["x_one_thread"] = median(ours);
      state.counters["x_one_peak"] = median(peaks);
    })->UseManualTime();
}

void add_numbers_rows() {
  const shape s{.n = numbers_n, .m = numbers_n};
  add_pair_numbers<options>("", s, [](tensors<float>& x, options how) {
    heed::local_linear::report report;
    how.report = &report;
    heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), 1.0, x.o_view(), how);
    return report.mean_tile_iterations;
  });
  add_pair_numbers<options>("apply/", s, [](tensors<float>& x, const options& how) {
    heed::local_linear::apply(x.q_view(), x.k_view(), x.v_view(), x.q_view(), x.o_view(), how);
    return 0.0;
  });
}

void add_layouts() {
  add_layout_rows(
      "", [](const laid_tensors& x) { heed::local_linear::forward(x.q, x.k, x.v, 1.0, x.o); },
      [](const laid_shape& s) {
        return 8 * shape{.n = s.n, .m = s.n, .d = s.d, .e = s.d}.flops();  // some passes of softmax
      },
      1024);
}

void add_backward_rows() {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t d : {64, 128})
      for (const index_t n : {256, 1024, 2048})
        for (const double ridge : {10.0, 1.0, 0.1})
          add(std::string("backward/") + name(mask) + number("/D", d) + number("/N", n) + "/ridge" + text(ridge),
              [=](State& state, const std::string& row) {
                show_progress(row);
                regression_tensors<float> x({.n = n, .m = n, .d = d, .e = d, .mask = mask});
                heed::local_linear::report forward, backward;
                const options first = x.with_saved(x.options(forward)), alone = x.options(backward),
                              saved = x.with_saved(alone);
                std::vector<double> with, without, only_q;
                x.forward(ridge, first);
                for (auto _ : state) {
                  const double before = seconds_of([&] { x.forward(ridge, first); });
                  const double ours = seconds_of([&] { x.backward(ridge, saved); });
                  state.counters["T"] = backward.mean_tile_iterations;
                  const double anew = seconds_of([&] { x.backward(ridge, alone); });
                  const double dq = seconds_of([&] {
                    heed::local_linear::backward(x.x.q_view(), x.x.k_view(), x.x.v_view(), ridge, x.dout_view(),
                                                 {.dq = x.wanted().dq}, saved);
                  });
                  const double after = seconds_of([&] { x.forward(ridge, first); });
                  state.SetIterationTime(ours);
                  with.push_back(2 * ours / (before + after)), without.push_back(2 * anew / (before + after));
                  only_q.push_back(2 * dq / (before + after));
                }
                state.counters["x_forward"] = median(with), state.counters["x_forward_alone"] = median(without);
                state.counters["x_forward_dq"] = median(only_q);
                state.counters["T_forward"] = forward.mean_tile_iterations;
                state.counters["direct_rows"] = static_cast<double>(backward.direct_rows);
              })
              ->UseManualTime();
}

void add_backward_eigen_rows() {
  for (const index_t d : {64, 128})
    add(number("backward/eigen/D", d) + "/N1024", [=](State& state, const std::string& row) {
      show_progress(row);
      regression_tensors<float> x({.n = 1024, .m = 1024, .d = d, .e = d});
      heed::local_linear::report report;
      std::vector<double> ratios;
      for (auto _ : state) {
        const double theirs = seconds_of([&] { eigen_regression_backward(x, 1); });
        const double ours = seconds_of([&] { x.backward(1, x.options(report)); });
        state.SetIterationTime(theirs);
        ratios.push_back(theirs / ours);
      }
      state.counters["x_heed"] = median(ratios);
    })->UseManualTime();
}

void add_backward_thread_rows() {
  for (const index_t d : {64, 128})
    add(number("backward/threads/D", d), [=](State& state, const std::string& row) {
      show_progress(row);
      static two_threads pool;
      regression_tensors<float> x({.n = 2048, .m = 2048, .d = d, .e = d, .mask = masking::causal});
      heed::local_linear::report report;
      const options how = x.with_saved(x.options(report));
      x.forward(1, how);
      std::vector<double> ours, peaks;
      for (auto _ : state) {
        const double one = seconds_of([&] { x.backward(1, how); }, now);
        const double two = seconds_of([&] { x.backward(1, how, {.executor = pool}); }, now);
        const auto peak = [](index_t) { run_multiply_adds<float>(1'000'000); };
        const double peak_one = seconds_of([&] { peak(0); }, now);
        const double peak_two = seconds_of([&] { pool.parallel_for(2, peak); }, now);
        state.SetIterationTime(two);
        ours.push_back(one / two), peaks.push_back(2 * peak_one / peak_two);
      }
      state.counters["x_one_thread"] = median(ours), state.counters["x_one_peak"] = median(peaks);
    })->UseManualTime();
}

double rms(const std::vector<float>& got, const std::vector<double>& want) {
  double sum = 0;
  for (std::size_t i = 0; i < want.size(); ++i) sum += std::pow(static_cast<double>(got[i]) - want[i], 2);
  return std::sqrt(sum / static_cast<double>(want.size()));
}

void add_accuracy_rows() {
  using heed::local_linear::solver;
  for (const solver kind : {solver::automatic, solver::direct})
    for (const index_t d : {64, 128})
      for (const double ridge : {1.0, 0.1})
        add(std::string("accuracy/") + (kind == solver::direct ? "direct" : "automatic") + number("/D", d) + "/ridge" +
                text(ridge),
            [=](State& state, const std::string& row) {
              show_progress(row);
              const shape s{.n = 128, .m = 256, .d = d, .e = d, .mask = masking::causal};
              regression_tensors<float> x(s);
              regression_tensors<double> exact(s);
              exact.x.q.assign(x.x.q.begin(), x.x.q.end()), exact.x.k.assign(x.x.k.begin(), x.x.k.end());
              exact.x.v.assign(x.x.v.begin(), x.x.v.end()), exact.dout.assign(x.dout.begin(), x.dout.end());
              heed::local_linear::report report;
              heed::reference::local_linear::backward(exact.x.q_view(), exact.x.k_view(), exact.x.v_view(), ridge,
                                                      exact.dout_view(), exact.wanted(), exact.options(report));
              options how = x.with_saved(x.options(report));
              how.solver = kind;
              naive_regression<float>(x, ridge, kind == solver::direct ? 0 : how.tolerance)();
              const double naive[] = {rms(x.dq, exact.dq), rms(x.dk, exact.dk), rms(x.dv, exact.dv)};
              x.forward(ridge, how);
              for (auto _ : state) x.backward(ridge, how);
              state.counters["dq_x_naive"] = rms(x.dq, exact.dq) / naive[0];
              state.counters["dk_x_naive"] = rms(x.dk, exact.dk) / naive[1];
              state.counters["dv_x_naive"] = rms(x.dv, exact.dv) / naive[2];
              state.counters["rms_dq"] = rms(x.dq, exact.dq);
            });
}

}  // namespace

int main(int argc, char** argv) {
  add_forward_rows();
  add_eigen_rows();
  add_solver_rows();
  add_apply_rows();
  add_thread_rows();
  add_numbers_rows();
  add_layouts();
  add_backward_rows();
  add_backward_eigen_rows();
  add_backward_thread_rows();
  add_accuracy_rows();
  return run_all(argc, argv);
}
