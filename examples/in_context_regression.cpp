// SPDX-License-Identifier: BSD-3-Clause
//
// Predicts a function from examples in the context. A sequence has inputs x_j and noisy values of a function f at these
// inputs; attention predicts f at the next input. Keys are the inputs, values the values of f, and the query is the
// next input. Attention is causal, and nothing is trained. The slope of f changes from place to place, so no single
// linear map fits.
//
//   softmax             a mean of the values, weighted by exp(scale q.k): the Nadaraya-Watson estimate
//   local linear        a linear regression under the same weights, evaluated at the query
//   linear regression   the same with equal weights: local linear attention at scale 0
//   linear attention    a mean weighted by phi(q).phi(k), with phi(x) = exp(scale x) per coordinate: a D x E state
//
// Prints the mean squared error over the mean square of f, for each length of the context. Every number is at the best
// scale and ridge of its kernel for that length, chosen on other sequences with other functions.
//
//   in_context_regression [PICTURE.svg]
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "heed/linear.hpp"
#include "heed/local_linear.hpp"
#include "heed/softmax.hpp"
#include "support/line_plot.hpp"

namespace {

using heed::index_t;
constexpr index_t sequences = 12, length = 1024, D = 8, E = 4, places = 4;
constexpr double noise = 0.1;
constexpr std::array<index_t, 7> contexts{16, 32, 64, 128, 256, 512, 1024};
using errors = std::array<double, contexts.size()>;  // one per context length

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

// Holds sequences of inputs on the unit sphere, each with its own function:
//   f(x) = sum over places r of g_r(x) A_r x,   g(x) = softmax of 4 c_r . x,   A_r and the directions c_r random
struct data {
  std::vector<float> inputs = std::vector<float>(at(sequences * (length + 1) * D)),
                     seen = std::vector<float>(at(sequences * length * E)),  // with noise
      truth = std::vector<float>(at(sequences * (length + 1) * E));          // without
  double mean_square = 0;

  explicit data(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (index_t s = 0; s < sequences; ++s) {
      std::vector<double> centres(at(places * D)), maps(at(places * E * D));
      for (double& x : centres) x = normal(random);
      for (double& x : maps) x = normal(random);
      for (index_t r = 0; r < places; ++r) normalise(centres.data() + r * D);
      for (index_t i = 0; i <= length; ++i) {
        std::array<double, D> x;
        for (double& each : x) each = normal(random);
        normalise(x.data());
        const std::array<double, E> f = value(x, centres, maps);
        for (index_t d = 0; d < D; ++d) inputs[at((s * (length + 1) + i) * D + d)] = static_cast<float>(x[at(d)]);
        for (index_t e = 0; e < E; ++e) {
          truth[at((s * (length + 1) + i) * E + e)] = static_cast<float>(f[at(e)]);
          if (i < length) seen[at((s * length + i) * E + e)] = static_cast<float>(f[at(e)] + noise * normal(random));
          mean_square += f[at(e)] * f[at(e)] / static_cast<double>(sequences * (length + 1) * E);
        }
      }
    }
  }

  heed::tensor_view<const float, 4> inputs_from(index_t first) const {
    return heed::slice(heed::bhsd(inputs.data(), sequences, 1, length + 1, D), 2, first, length);
  }
  heed::tensor_view<const float, 4> values() const { return heed::bhsd(seen.data(), sequences, 1, length, E); }

 private:
  static void normalise(double* x) {
    double square = 0;
    for (index_t d = 0; d < D; ++d) square += x[d] * x[d];
    for (index_t d = 0; d < D; ++d) x[d] /= std::sqrt(square);
  }
  static std::array<double, E> value(const std::array<double, D>& x, const std::vector<double>& centres,
                                     const std::vector<double>& maps) {
    std::array<double, E> f{};
    double total = 0;
    for (index_t r = 0; r < places; ++r) {
      double score = 0;
      for (index_t d = 0; d < D; ++d) score += 4 * centres[at(r * D + d)] * x[at(d)];
      const double weight = std::exp(score);
      total += weight;
      for (index_t e = 0; e < E; ++e)
        for (index_t d = 0; d < D; ++d) f[at(e)] += weight * maps[at((r * E + e) * D + d)] * x[at(d)];
    }
    for (double& each : f) each /= total;
    return f;
  }
};

struct settings {
  double scale, ridge;
};

// Describes one curve. To add another, add its settings, its call, and a line in `curves`.
struct curve {
  const char *name, *colour;
  std::vector<settings> choices;
  void (*predict)(const data& x, const settings& use, heed::tensor_view<float, 4> o);
};

void softmax(const data& x, const settings& use, heed::tensor_view<float, 4> o) {
  heed::softmax::forward(x.inputs_from(1), x.inputs_from(0), x.values(), o,
                         {.mask = heed::causal(), .scale = use.scale});
}
void local_linear(const data& x, const settings& use, heed::tensor_view<float, 4> o) {
  heed::local_linear::forward(x.inputs_from(1), x.inputs_from(0), x.values(), use.ridge, o,
                              {.mask = heed::causal(), .scale = use.scale});
}
void linear(const data& x, const settings& use, heed::tensor_view<float, 4> o) {
  const auto scale = static_cast<float>(use.scale);
  const auto phi = [scale](float a) { return std::exp(scale * a); };
  const auto slope = [scale](float a) { return scale * std::exp(scale * a); };
  heed::linear::forward(x.inputs_from(1), x.inputs_from(0), x.values(), o,
                        {.mask = heed::causal(), .feature = heed::feature_map<float>(phi, slope)});
}

std::vector<settings> every(const std::vector<double>& scales, const std::vector<double>& ridges) {
  std::vector<settings> out;
  for (const double scale : scales)
    for (const double ridge : ridges) out.push_back({scale, ridge});
  return out;
}

// Returns the mean error of predictions from about `context` inputs, within a factor of 2^(1/4), for each context.
errors measure(const curve& c, const settings& use, const data& x) {
  std::vector<float> o(at(sequences * length * E));
  c.predict(x, use, heed::bhsd(o.data(), sequences, 1, length, E));
  errors out{};
  for (std::size_t n = 0; n < contexts.size(); ++n) {
    const double context = static_cast<double>(contexts[n]), wide = std::exp2(0.25);
    const index_t first = static_cast<index_t>(std::ceil(context / wide)) - 1,
                  end = std::min(length, static_cast<index_t>(context * wide));
    for (index_t s = 0; s < sequences; ++s)
      for (index_t i = first; i < end; ++i)  // row i has seen i + 1 inputs
        for (index_t e = 0; e < E; ++e) {
          const double miss = static_cast<double>(o[at((s * length + i) * E + e)]) -
                              static_cast<double>(x.truth[at((s * (length + 1) + i + 1) * E + e)]);
          out[n] += miss * miss / static_cast<double>(sequences * (end - first) * E);
        }
    out[n] /= x.mean_square;
  }
  return out;
}

struct result {
  errors error;
  std::array<settings, contexts.size()> chosen;
};

result choose_and_measure(const curve& c, const data& to_choose, const data& to_measure) {
  std::vector<errors> tried;
  for (const settings& use : c.choices) tried.push_back(measure(c, use, to_choose));
  result out{};
  std::vector<std::size_t> best(contexts.size());
  for (std::size_t n = 0; n < contexts.size(); ++n) {
    for (std::size_t i = 0; i < tried.size(); ++i)
      if (tried[i][n] < tried[best[n]][n]) best[n] = i;
    out.chosen[n] = c.choices[best[n]];
  }
  for (std::size_t i = 0; i < tried.size(); ++i) {
    if (std::find(best.begin(), best.end(), i) == best.end()) continue;
    const errors found = measure(c, c.choices[i], to_measure);
    for (std::size_t n = 0; n < contexts.size(); ++n)
      if (best[n] == i) out.error[n] = found[n];
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2) return std::fprintf(stderr, "usage: %s [PICTURE.svg]\n", argv[0]), 2;
  const data to_choose(1), to_measure(2);
  const std::vector<double> ridges{0.1, 0.03, 0.01, 0.003, 0.001, 0.0003};
  const curve curves[] = {
      {"linear regression", "#8c959f", every({0}, ridges), local_linear},
      {"softmax", "#d4761f", every({1, 2, 4, 6, 8, 12, 16, 24, 32}, {0}), softmax},
      {"local linear", "#0a56b8", every({1, 4, 6, 8, 12, 16}, ridges), local_linear},
      {"linear attention", "#7a3fa0", every({0.5, 1, 2, 3, 4, 6}, {0}), linear},
  };
  std::printf("mean squared error / mean square of f, at the best (scale, ridge) of other sequences\n\n%-18s",
              "context");
  for (const index_t context : contexts) std::printf("%13td", context);
  std::vector<line_plot::curve> lines;
  for (const curve& c : curves) {
    const result r = choose_and_measure(c, to_choose, to_measure);
    std::printf("\n%-18s", c.name);
    for (const double error : r.error) std::printf("%13.3f", error);
    std::printf("\n%-18s", "");
    for (const settings& use : r.chosen) {
      char text[32];
      std::snprintf(text, sizeof text, use.ridge > 0 ? "(%g, %g)" : "(%g)", use.scale, use.ridge);
      std::printf("%13s", text);
    }
    lines.push_back({c.name, c.colour, {r.error.begin(), r.error.end()}});
  }
  std::printf("\n");
  if (argc == 2) {
    const line_plot::picture picture({contexts.begin(), contexts.end()}, 0.01, 1);
    if (!picture.write(argv[1], "In-context regression", "inputs seen", "mean squared error / mean square of f", lines))
      return std::fprintf(stderr, "%s: cannot be written\n", argv[1]), 1;
  }
  const auto error_of_longest = [&](std::size_t c) { return lines[c].y.back(); };
  return error_of_longest(2) < error_of_longest(1) && error_of_longest(2) < error_of_longest(0) ? 0 : 1;
}
