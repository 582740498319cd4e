// SPDX-License-Identifier: BSD-3-Clause
//
// Times softmax::decode on caches of float, bf16, f16 and int8. Rows, <type>/<cache>/D<D>/M<M>/G<G> with
//   M: tokens of the longest sequence        G: query heads of each key/value head
//   /N4: four new tokens, causal             /B4: four sequences of about M, 3 M / 4, M / 2 and M / 8 tokens
//   /H<H>: key/value heads if not 8          /T2: two threads, x_one_thread is the speed-up and x_one_read that of two
//                                            read loops at once, wall time
//   /eigen, /naive: two matrix products, plain loops (one after the other for each query head)
//   step/H<H>G<G>/D<D>/M<M>: prepared call of eight query heads in all; x_decode: how many times as fast as decode
// Caches: contiguous, ring (wrapped, keep_first 4), paged (16 tokens, pages shuffled), token_major.
// GB/s: bytes of K, V and scales, once for each key/value head, over the time. pct_read: the same over the rate of the
// best simple read loop on the row's own K and V, timed in every iteration (short caches are read from cache by both).
// pct_roof: the larger of pct_read and pct_peak. x_float: how many times as fast as float. x_contiguous: as fast as the
// contiguous cache. All beside the row in every iteration; medians.
// By default: a part of the grid, and all rows with a line in the table at the end. --asked: only these. --full: all.
#include "support/eigen_baseline.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "heed/softmax.hpp"
#include "support/caches.hpp"
#include "support/half.hpp"
#include "support/naive.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/two_threads.hpp"

namespace {

using namespace heed_bench;
using benchmark::State;

enum class extent { asked, usual, full };

// Medians of every repetition, for the table at the end
std::map<std::string, std::map<std::string, std::vector<double>>>& measured() {
  static std::map<std::string, std::map<std::string, std::vector<double>>> rows;
  return rows;
}
void set(State& state, const std::string& row, const char* counter, double value) {
  state.counters[counter] = value;
  measured()[row][counter].push_back(value);
}

const read_loop& fastest() {
  static const read_loop loop = fastest_read_loop();
  return loop;
}

template <class S> std::string name_of(const step_shape& s) {
  std::string text = std::string(storage_name<S>) + "/" + name(s.kind) + number("/D", s.d) + number("/M", s.m);
  text += number("/G", s.group);
  if (s.n != 1) text += number("/N", s.n);
  if (s.batch != 1) text += number("/B", s.batch);
  if (s.kv_heads != 8) text += number("/H", s.kv_heads);
  return text;
}

// Iterations of about 0.15 s, each of calls that take about `seconds`
index_t iterations(double seconds) { return std::clamp<index_t>(static_cast<index_t>(0.15 / seconds), 5, 40); }

// A guess of the time of a call, in seconds
template <class S> double guess(const step_shape& s) { return s.bytes<S>() / 20e9 + s.flops() / 100e9; }

template <class S> void set_step_rates(State& state, const std::string& row, const step_shape& s, double seconds) {
  const double gflops = s.flops() / seconds * 1e-9;
  if (std::is_same_v<S, float>) check_against_peak<float>(state, gflops);
  set(state, row, "GFLOP/s", gflops);
  set(state, row, "GB/s", s.bytes<S>() / seconds * 1e-9);
  set(state, row, "tokens/s", static_cast<double>(s.batch * s.n) / seconds);
}

// Adds a row, beside its read loop, floats, and a contiguous cache where it is none.
template <class S> void add_step(const step_shape& s) {
  const double seconds = guess<S>(s);
  const int times = std::max(1, static_cast<int>(1e-3 / seconds));
  add(name_of<S>(s), [=](State& state, const std::string& row) {
    show_progress(row);
    step_shape plain = s;
    plain.kind = cache_kind::contiguous;
    cache_step<S> x(s), contiguous(plain);
    cache_step<float> y(plain);
    const auto timed = [times](auto& call) {
      return seconds_of([&] {
               for (int i = 0; i < times; ++i) call();
             }) /
             times;
    };
    std::vector<double> ours, shares, floats, plains;
    for (auto _ : state) {
      const double read = x.read_rate(fastest(), cpu_now);
      const double a = timed(x);
      ours.push_back(a), shares.push_back(100 * s.bytes<S>() / a * 1e-9 / read);
      if (!std::is_same_v<S, float>) floats.push_back(timed(y) / a);
      if (s.kind != cache_kind::contiguous) plains.push_back(timed(contiguous) / a);
      state.SetIterationTime(a);
    }
    set_step_rates<S>(state, row, s, median(ours));
    set(state, row, "pct_read", median(shares));
    if (!std::is_same_v<S, float>) set(state, row, "x_float", median(floats));
    if (s.kind != cache_kind::contiguous) set(state, row, "x_contiguous", median(plains));
    state.SetLabel(x.plan().path);
  })
      ->UseManualTime()
      ->Iterations(iterations(times * seconds * (std::is_same_v<S, float> ? 2 : 4)));
}

// Adds a row of two threads over one, beside two read loops over one.
template <class S> void add_two_threads(const step_shape& s) {
  add(name_of<S>(s) + "/T2", [s](State& state, const std::string& row) {
    show_progress(row);
    static two_threads pool;
    cache_step<S> x(s), y(s, {.executor = pool});
    std::vector<double> ours, ratios, reads;
    for (auto _ : state) {
      y();  // wakes the threads, which may take longer than the call
      const double two = seconds_of([&] { y(); }, now), one = seconds_of([&] { x(); }, now);
      const double read_two = x.read_rate(fastest(), now, &pool), read_one = x.read_rate(fastest(), now);
      ours.push_back(two), ratios.push_back(one / two), reads.push_back(read_two / read_one);
      state.SetIterationTime(two);
    }
    set(state, row, "GB/s", s.bytes<S>() / median(ours) * 1e-9);
    set(state, row, "tokens/s", static_cast<double>(s.batch * s.n) / median(ours));
    set(state, row, "x_one_thread", median(ratios));
    set(state, row, "x_one_read", median(reads));
  })
      ->UseManualTime()
      ->Iterations(15);
}

void add_prepared_step(index_t kv_heads, index_t d, index_t m) {
  const step_shape s{.m = m, .d = d, .group = 8 / kv_heads, .kv_heads = kv_heads};
  add(number("step/H", kv_heads) + number("G", s.group) + number("/D", d) + number("/M", m),
      [s](State& state, const std::string& row) {
        show_progress(row);
        constexpr int times = 2000;
        cache_step<float> x(s);
        auto call = x.prepared();
        std::vector<double> ours, ratios;
        for (auto _ : state) {
          const auto timed = [](auto& f) {
            return seconds_of([&] {
                     for (int i = 0; i < times; ++i) f();
                   }) /
                   times;
          };
          const double a = timed(call), b = timed(x);
          ours.push_back(a), ratios.push_back(b / a);
          state.SetIterationTime(a);
        }
        set(state, row, "us", median(ours) * 1e6);
        set(state, row, "x_decode", median(ratios));
        state.counters["tokens/s"] = 1 / median(ours);
      })
      ->UseManualTime()
      ->Iterations(9);
}

void run_naive(tensors<float>& x, std::vector<float>& p) {
  const shape& s = x.at;
  for (index_t h = 0; h < s.heads; ++h) {
    const index_t g = h / (s.heads / s.kv_heads);
    naive_attention(
        x.q.data() + h * s.d, x.k.data() + g * s.m * s.d, x.v.data() + g * s.m * s.e, x.o.data() + h * s.e, index_t{1},
        s.d, s.e, 1 / std::sqrt(static_cast<float>(s.d)), p, [](index_t) { return index_t{0}; },
        [&](index_t) { return s.m; });
  }
}

void add_neighbours(index_t m, index_t group, bool naive) {
  const step_shape step{.m = m, .d = 128, .group = group};
  const shape s{.n = 1, .m = m, .d = 128, .e = 128, .heads = 8 * group, .kv_heads = 8};
  const std::string row = name_of<float>(step) + (naive ? "/naive" : "/eigen");
  add(row, [=](State& state, const std::string& name) {
    show_progress(name);
    tensors<float> x(s);
    eigen_attention<float> eigen(s);
    std::vector<float> p(static_cast<std::size_t>(s.m));
    std::vector<double> times;
    for (auto _ : state) {
      times.push_back(seconds_of([&] { naive ? run_naive(x, p) : eigen(x); }));
      state.SetIterationTime(times.back());
    }
    set_step_rates<float>(state, name, step, median(times));
  })
      ->UseManualTime()
      ->Iterations(naive ? 2 : 5);
}

template <class S> bool is_asked(const step_shape& s) {
  constexpr bool is_float = std::is_same_v<S, float>, is_int8 = std::is_same_v<S, std::int8_t>;
  const bool contiguous = s.kind == cache_kind::contiguous;
  if (s.n != 1 || s.batch != 1 || s.d != 128) return false;
  if (s.m == 1024) return is_float && contiguous && s.group == 8;
  if (s.m != 32768) return false;
  if (!contiguous) return is_float && s.group == 1 && s.kind != cache_kind::token_major;
  const bool group8 = s.group == 8 && (is_float || std::is_same_v<S, heed::bf16_t>);
  return s.group == 1 || (s.group == 4 && !is_int8) || group8;
}

// All storages and groups on M = 32768, D = 128; of float and bf16 what differs from that in one thing.
template <class S> bool is_usual(const step_shape& s) {
  const bool long_wide = s.m == 32768 && s.d == 128, contiguous = s.kind == cache_kind::contiguous;
  const bool single = s.n == 1 && s.batch == 1;
  if (single && contiguous && long_wide) return true;
  if (single && contiguous && s.m == 1024 && s.d == 128) return s.group == 1 || s.group == 8;
  if (std::is_same_v<S, heed::f16_t> || std::is_same_v<S, std::int8_t>) return false;
  if (s.n == 4)
    return contiguous && s.batch == 1 && s.d == 128 && (s.m == 4096 || long_wide) && (s.group == 1 || s.group == 4);
  if (s.group != 1 && s.group != 8) return false;
  if (!contiguous || s.batch == 4) return long_wide && (contiguous || s.batch == 1);
  return s.d == 128 || s.m == 32768;
}

template <class S> void add_grid(extent wanted) {
  for (const cache_kind kind : {cache_kind::contiguous, cache_kind::ring, cache_kind::paged, cache_kind::token_major})
    for (const index_t d : {64, 128})
      for (const index_t m : {1024, 4096, 32768, 131072})
        for (const index_t batch : {1, 4})
          for (const index_t n : {1, 4})
            for (const index_t group : {1, 2, 4, 8, 16}) {
              step_shape s{.kind = kind, .batch = batch, .n = n, .m = m, .d = d, .group = group};
              if (batch * m > 32768) s.kv_heads = 2;  // at most 1 GiB
              const bool usual = wanted == extent::usual && is_usual<S>(s);
              if (wanted == extent::full || usual || is_asked<S>(s)) add_step<S>(s);
            }
}

void add_rows(extent wanted) {
  add_grid<float>(wanted);
  add_grid<heed::bf16_t>(wanted);
  add_grid<heed::f16_t>(wanted);
  add_grid<std::int8_t>(wanted);
  const step_shape s{.m = 32768, .d = 128};
  add_two_threads<float>(s);
  for (const index_t kv_heads : {8, 1})
    for (const index_t d : {64, 128})
      for (const index_t m : {0, 16, 64}) add_prepared_step(kv_heads, d, m);
  if (wanted == extent::asked) return;
  const step_shape group8{.m = 32768, .d = 128, .group = 8}, one_head{.m = 32768, .d = 128, .kv_heads = 1};
  for (const step_shape& other : {group8, one_head})
    add_two_threads<float>(other), add_two_threads<heed::bf16_t>(other);
  add_two_threads<heed::bf16_t>(s), add_two_threads<float>({.batch = 4, .m = 32768, .d = 128, .kv_heads = 2});
  add_neighbours(1024, 1, false), add_neighbours(1024, 8, false), add_neighbours(1024, 8, true);
  add_neighbours(32768, 1, false), add_neighbours(32768, 8, false), add_neighbours(32768, 1, true);
}

// Returns the median of a counter over the repetitions, or -1 if the row did not run.
double measured(const std::string& row, const std::string& counter) {
  const auto it = measured().find(row);
  return it == measured().end() ? -1 : median(it->second[counter]);
}

void print_line(const char* what, double value, const char* relation, double asked, const char* unit) {
  if (value < 0) return;  // the row did not run
  const bool met = *relation == '>' ? value >= asked : value <= asked;
  std::printf("%-58s %8.2f %-4s asked %s %.4g  %s\n", what, value, unit, relation, asked, met ? "" : "MISSED");
}

double roof(const std::string& row) {
  const double flops = measured(row, "GFLOP/s");
  return flops < 0 ? -1 : std::max(measured(row, "pct_read"), 100 * flops / best_peak<float>());
}

// Prints what the rows show beside what is asked of them.
void print_asked() {
  if (measured().empty()) return;
  const std::string far = "/contiguous/D128/M32768/G", near = "float/contiguous/D128/M1024/G8";
  std::printf("\nOne thread, M = 32768, D = 128, 8 key/value heads, if not said otherwise\n");
  print_line("float, group 1: read bandwidth", measured("float" + far + "1", "pct_read"), ">=", 93, "%");
  print_line("float, group 4: read bandwidth", measured("float" + far + "4", "pct_read"), ">=", 80, "%");
  print_line("float, group 8: smaller roof", roof("float" + far + "8"), ">=", 84, "%");
  for (const auto& [cache, asked] : {std::pair{"paged", 0.95}, std::pair{"ring", 0.97}})
    print_line((std::string("float, group 1: ") + cache + " over contiguous").c_str(),
               measured(std::string("float/") + cache + "/D128/M32768/G1", "x_contiguous"), ">=", asked, "x");
  for (const std::string type : {"bf16", "f16"})
    for (const auto& [group, asked] : {std::pair{"1", 1.7}, std::pair{"4", 1.5}})
      print_line((type + ", group " + group + ": tokens/s over float").c_str(), measured(type + far + group, "x_float"),
                 ">=", asked, "x");
  print_line("int8, group 1: tokens/s over float", measured("int8" + far + "1", "x_float"), ">=", 2.6, "x");
  if (heed::tile::bf16_unit() != nullptr)
    print_line("bf16, group 8, with a matrix unit: read bandwidth", measured("bf16" + far + "8", "pct_read"), ">=", 80,
               "%");
  print_line("float, M = 1024, group 8: multiply-add peak",
             measured(near, "GFLOP/s") < 0 ? -1 : 100 * measured(near, "GFLOP/s") / best_peak<float>(), ">=", 80, "%");
  const std::string two = "float" + far + "1/T2";
  print_line("float, group 1, two threads over one", measured(two, "x_one_thread"), ">=",
             1.8 / 1.9 * measured(two, "x_one_read"), "x");
  for (const std::string heads : {"H8G1", "H1G8"})
    for (const std::string d : {"64", "128"})
      for (const std::string m : {"0", "16", "64"})
        print_line(("step " + heads + ", D = " + d + ", M = " + m + ", prepared").c_str(),
                   measured("step/" + heads + "/D" + d + "/M" + m, "us"), "<", 2, "us");
}

}  // namespace

int main(int argc, char** argv) {
  extent wanted = extent::usual;
  std::vector<char*> words;
  for (int i = 0; i < argc; ++i)
    if (std::strcmp(argv[i], "--full") == 0)
      wanted = extent::full;
    else if (std::strcmp(argv[i], "--asked") == 0)
      wanted = extent::asked;
    else
      words.push_back(argv[i]);
  add_rows(wanted);
  const int failed = run_all(static_cast<int>(words.size()), words.data());
  print_asked();
  return failed;
}
