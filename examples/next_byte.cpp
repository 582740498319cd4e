// SPDX-License-Identifier: BSD-3-Clause
//
// Predicts the next byte of a text by attention. Nothing is trained: the keys and values are the text so far.
//
//   key of position t     sum over n = 1 .. 6 of a random code (+-1/sqrt(D)) of the hash of the n bytes before t
//   value of position t   byte t, one-hot: E = 256, so an output row is a distribution over bytes
//   query of position t   the key of position t
//
// Where two contexts share their last L bytes, q.k is about L, so the weights exp(scale q.k) favour the bytes that
// followed long matches. The prediction of byte t reads positions before t only: row i of the queries is position i +
// 1, row j of the keys is position j, and causal attention (j <= i) sees exactly the positions before i + 1.
//
// A row of softmax attention is an average of one-hot rows, so it is a distribution. A row of local linear attention is
// the value of a regression line: its sum is 1, but entries can be negative. The program clips them at 0 and
// renormalises the rest. Linear and lightning attention keep no keys: they compress everything before into D x E
// numbers. They take far less time, cannot look up one context among many, and predict little better than counts of
// bytes without context.
//
//   next_byte [FILE] [--kernel NAME]     default text: the library's own headers
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/compressors.hpp"
#include "support/kernels.hpp"
#include "support/memory.hpp"
#include "support/orders.hpp"
#include "support/peak.hpp"
#include "support/source_text.hpp"

namespace {

using heed::index_t;
using next_byte::at, next_byte::const_rows, next_byte::D, next_byte::E, next_byte::memory;
using next_byte::kernel, next_byte::kernels, next_byte::settings;
constexpr index_t max_bytes = 16384, continued_bytes = 200;

// Prints one line to stderr, over the last one on a terminal.
template <class... T> void progress(const char* format, T... values) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  if (terminal) std::fputs("\r\033[K", stderr);
  if constexpr (sizeof...(T) == 0)
    std::fputs(format, stderr);
  else
    std::fprintf(stderr, format, values...);
  std::fputs(terminal ? "" : "\n", stderr);
}

// ---- scores --------------------------------------------------------------------------------------------------------

// Returns the bits of one byte. A byte never seen has probability 0; mixing in a little of the uniform distribution
// (`floor`) keeps its cost finite.
double bits(const float* distribution, char byte, double floor) {
  double sum = 0;
  for (index_t e = 0; e < E; ++e) sum += std::max(0.f, distribution[e]);
  const double p = sum > 0 ? std::max(0.f, distribution[static_cast<unsigned char>(byte)]) / sum : 1.0 / E;
  return -std::log2((1 - floor) * p + floor / static_cast<double>(E));
}

// Returns the mean over the bytes first .. end - 1. Row t - first of o predicts byte t.
double mean_bits(const float* o, const std::string& text, index_t first, index_t end, double floor) {
  double sum = 0;
  for (index_t t = first; t < end; ++t) sum += bits(o + (t - first) * E, text[at(t)], floor);
  return sum / static_cast<double>(end - first);
}

// Computes the rows that predict the bytes first .. m.size() - 1; returns the FLOPs.
double predict(const kernel& kernel, const memory& m, index_t first, const settings& use, std::vector<float>& o) {
  const index_t count = m.size() - first;
  return kernel.forward(heed::slice(m.queries(), 2, first - 1, count), heed::slice(m.keys(), 2, 0, m.size() - 1),
                        heed::slice(m.values(), 2, 0, m.size() - 1), heed::matrix(o.data(), count, E), use);
}

struct choice {
  settings best, at_one;  // at_one: the best of those with scale 1
  index_t first;          // the bytes first .. size - 1 chose them
};

choice choose_settings(const kernel& kernel, const memory& m, std::vector<float>& o) {
  choice out{.best = {}, .at_one = {}, .first = std::max<index_t>(1, m.size() - m.size() / kernel.chosen_on)};
  for (const double scale : kernel.scales) {
    for (const double extra : kernel.extras) {
      predict(kernel, m, out.first, {.scale = scale, .extra = extra}, o);
      for (const double floor : {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3}) {
        const settings now{scale, extra, floor, mean_bits(o.data(), m.text(), out.first, m.size(), floor)};
        if (now.bits < out.best.bits) out.best = now;
        if (scale == 1 && now.bits < out.at_one.bits) out.at_one = now;
      }
    }
    progress("%s: scale %.2f; best so far %.3f bits per byte at %.2f", kernel.name, scale, out.best.bits,
             out.best.scale);
  }
  return out;
}

// Checks that a change of byte t changes no bit of the predictions of the bytes up to t, and changes a later one.
bool is_causal(const kernel& kernel, const std::string& text, const settings& use) {
  const auto all_rows = [&](const std::string& bytes) {
    const memory m(bytes);
    std::vector<float> o(at(m.size() * E));
    kernel.forward(m.queries(), m.keys(), m.values(), heed::matrix(o.data(), m.size(), E), use);
    return o;
  };
  const std::vector<float> before = all_rows(text);
  for (const std::size_t t : {text.size() / 7, text.size() / 2, text.size() - 70}) {
    std::string changed = text;
    changed[t] = static_cast<char>(changed[t] ^ 1);
    const std::vector<float> after = all_rows(changed);
    const auto boundary = static_cast<std::ptrdiff_t>(t) * E;  // rows 0 .. t - 1 predict the bytes 1 .. t
    if (!std::equal(before.begin(), before.begin() + boundary, after.begin())) return false;
    if (std::equal(before.begin() + boundary, before.end(), after.begin() + boundary)) return false;
  }
  return true;
}

// Samples bytes from the predictions, which it sharpens a little (p^1.5).
std::string continuation(const kernel& kernel, memory m, const settings& use) {
  std::mt19937 random(1);
  std::vector<float> o(at(E));
  std::string out;
  while (static_cast<index_t>(out.size()) < continued_bytes) {
    const const_rows query = heed::slice(m.queries(), 2, m.size() - 1, 1);
    kernel.forward(query, m.keys(), m.values(), heed::matrix(o.data(), 1, E), use);
    for (float& p : o) p = std::pow(std::max(0.f, p), 1.5f);
    const char byte = static_cast<char>(std::discrete_distribution<int>(o.begin(), o.end())(random));
    out.push_back(byte);
    m.append(byte);
  }
  return out;
}

// ---- the table -----------------------------------------------------------------------------------------------------

struct timing {
  double seconds = 0, gflops = 0, naive_seconds = 0, naive_difference = 0;
};

timing time_kernel(const kernel& kernel, const memory& m, const settings& use, std::vector<float>& o) {
  timing best{.seconds = 1e9};
  const double n = static_cast<double>(m.size()), pairs = n * (n + 1) / 2;
  for (int round = 0; round < kernel.rounds; ++round) {
    const double start = next_byte::now();
    const double flops = kernel.forward(m.queries(), m.keys(), m.values(), heed::matrix(o.data(), m.size(), E), use);
    best.seconds = std::min(best.seconds, next_byte::now() - start);
    best.gflops = flops / best.seconds * 1e-9;
  }
  const index_t step = std::min(kernel.naive_step, m.size());
  progress("%s: %.0f ms; now plain loops on 1/%td of the queries", kernel.name, best.seconds * 1e3, step);
  std::vector<float> plain(o.size());
  double naive_pairs = 0, largest = 1;
  const double start = next_byte::now();
  kernel.naive(m.queries(), m.keys(), m.values(), heed::matrix(plain.data(), m.size(), E), use, step);
  best.naive_seconds = next_byte::now() - start;
  for (index_t i = step - 1; i < m.size(); i += step) {
    naive_pairs += static_cast<double>(i + 1);
    for (std::size_t e = at(i * E); e < at((i + 1) * E); ++e) {
      largest = std::max<double>(largest, std::abs(plain[e]));
      best.naive_difference = std::max<double>(best.naive_difference, std::abs(o[e] - plain[e]));
    }
  }
  best.naive_seconds *= pairs / naive_pairs;
  best.naive_difference /= largest;  // because lightning attention is not normalised
  return best;
}

struct result {
  choice chosen;
  timing time;
  double bits = 0, bits_at_one = 0, peak = 0;
  bool causal = false;
};

result evaluate(const kernel& kernel, const memory& whole, const memory& half) {
  std::vector<float> o(at(whole.size() * E));
  result r;
  r.chosen = choose_settings(kernel, half, o);
  r.peak = next_byte::multiply_add_peak();
  r.time = time_kernel(kernel, whole, r.chosen.best, o);
  r.peak = std::max(r.peak, next_byte::multiply_add_peak());
  const index_t first = half.size();
  r.bits = mean_bits(o.data() + (first - 1) * E, whole.text(), first, whole.size(), r.chosen.best.floor);
  progress("%s: at scale 1", kernel.name);
  predict(kernel, whole, first, r.chosen.at_one, o);
  r.bits_at_one = mean_bits(o.data(), whole.text(), first, whole.size(), r.chosen.at_one.floor);
  progress("%s: self-check", kernel.name);
  r.causal = is_causal(kernel, whole.text().substr(0, 4096), r.chosen.best);
  return r;
}

std::string text_of(const kernel& kernel, const settings& use) {
  char extra[32] = "", floor[80];
  if (kernel.extra[0] != 0) std::snprintf(extra, sizeof extra, "%s %g, ", kernel.extra, use.extra);
  std::snprintf(floor, sizeof floor, "%.1f %% of the uniform distribution (%.3f bits there)", 100 * use.floor,
                use.bits);
  return std::string(extra) + floor;
}

void print_row(const kernel& kernel, const result& r, index_t n, index_t first) {
  std::printf("%-20s %9.3f %8.3f %8.1f %9.0f %8.1f %7.1f %8.1f\n", kernel.name, r.bits, r.bits_at_one,
              r.time.seconds * 1e3, static_cast<double>(n) / r.time.seconds, r.time.gflops,
              r.peak > 0 ? 100 * r.time.gflops / r.peak : 0, r.time.naive_seconds / r.time.seconds);
  std::printf("    chosen on the bytes %td to %td: scale %.2f, %s\n", r.chosen.first, first - 1, r.chosen.best.scale,
              text_of(kernel, r.chosen.best).c_str());
  if (kernel.scales.size() > 1)
    std::printf("    chosen there at scale 1: %s\n", text_of(kernel, r.chosen.at_one).c_str());
  if (kernel.note[0] != 0) std::printf("    %s\n", kernel.note);
  std::printf("    peak %.1f GFLOP/s on one core; largest difference to the plain loops %.1e\n", r.peak,
              r.time.naive_difference);
  std::printf("    self-check, changing byte t moves later predictions and none up to t: %s\n",
              r.causal ? "ok" : "FAILED");
}

int run(const std::string& name, const std::string& text, const std::string& only) {
  const memory whole(text), half(text.substr(0, text.size() / 2));
  const index_t n = whole.size(), first = half.size();
  std::vector<std::pair<const kernel*, result>> results;
  for (const kernel& kernel : kernels)
    if (only.empty() || only == kernel.name) results.emplace_back(&kernel, evaluate(kernel, whole, half));
  progress("mixture_of_head");
  next_byte::orders_result orders;
  if (only.empty())
    orders = next_byte::run_orders(text, [](const auto& o, const std::string& of, index_t from, index_t end, double x) {
      return mean_bits(o.data() + (from - 1) * E, of, from, end, x);
    });
  progress("writing on");
  const std::string continued = continuation(*results[0].first, whole, results[0].second.chosen.best);
  progress("counts and compressors");
  std::vector<std::pair<std::string, double>> others;
  for (const int order : {0, 2, 3, 5})
    others.emplace_back("Witten-Bell order " + std::to_string(order), next_byte::witten_bell(text, at(first), order));
  for (const char* command : {"gzip -9", "xz -9"})
    if (const auto bits = next_byte::compressor(command, text, at(first))) others.emplace_back(command, *bits);
  progress("");

  bool good = true;
  std::printf("%s: %td bytes, scored on the last %td, each predicted from all before it\n\n", name.c_str(), n,
              n - first);
  std::printf("%-20s %9s %8s %8s %9s %8s %7s %8s\n", "", "bits/byte", "scale 1", "ms", "tokens/s", "GFLOP/s", "% peak",
              "x naive");
  for (const auto& [kernel, r] : results) {
    print_row(*kernel, r, n, first);
    good = good && r.causal && r.time.naive_difference < 1e-3;
  }
  for (const auto& [label, bits] : others) std::printf("%-20s %9.3f\n", label.c_str(), bits);
  std::printf("    scale 1: bits/byte at that scale; gzip and xz: what these bytes add to the compressed file\n");
  if (orders.size > 0) next_byte::print_orders(orders), good = good && orders.difference < 1e-5;
  std::printf("\n--- the last bytes, >>> and %td more from %s ---\n", continued_bytes, results[0].first->name);
  std::printf("%s>>>%s\n", text.substr(text.size() - std::min<std::size_t>(text.size(), 120)).c_str(),
              continued.c_str());
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::string path, only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--kernel") == 0 && i + 1 < argc)
      only = argv[++i];
    else if (argv[i][0] != '-' && path.empty())
      path = argv[i];
    else
      return std::fprintf(stderr, "usage: %s [FILE] [--kernel NAME]\n", argv[0]), 2;
  }
  if (!only.empty() && std::none_of(std::begin(kernels), std::end(kernels), [&](auto& k) { return only == k.name; })) {
    std::fprintf(stderr, "no kernel '%s'; there is:", only.c_str());
    for (const kernel& kernel : kernels) std::fprintf(stderr, " %s", kernel.name);
    return std::fputc('\n', stderr), 2;
  }
  std::string text = path.empty() ? next_byte::read_headers() : next_byte::read_file(path);
  if (text.size() < 256) {
    std::fprintf(stderr, "%s: fewer than 256 bytes\n", path.empty() ? "the library's headers" : path.c_str());
    return 2;
  }
  text.resize(std::min(text.size(), at(max_bytes)));
  return run(path.empty() ? "the library's headers" : path, text, only);
}
