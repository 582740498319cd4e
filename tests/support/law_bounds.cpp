// SPDX-License-Identifier: BSD-3-Clause

// How far the results of two calls that a law makes equal may be apart.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "support/law_cases.hpp"
#include "support/tolerance.hpp"

namespace heed_test {
namespace {

template <class T> double weight_error(const law_call& x, double score, bool on_unit) {
  tolerance all = tolerance_of<T>(x.keys(), x.q.extent(3));
  all.weights = on_unit ? rounded_weights : 0;
  row_size row;
  row.see_score(score);
  return all.of_lse(row);
}

// The largest number that a feature makes of numbers up to x
double largest_feature(heed::feature by, double x) {
  switch (by) {
    case heed::feature::elu_plus_one:
      return 1 + x;
    case heed::feature::exp:
      return std::exp(x);
    case heed::feature::softmax:
      return 1;
    case heed::feature::relu_squared:
      return x * x;
    default:
      return x;
  }
}

// Gradients are sums over the rows that share a number, of products with dout . v
double gradient_size(const law_call& x) {
  const double rows = static_cast<double>(x.batch() * x.out_heads() * std::max(x.queries(), x.keys()));
  const double values = std::max({x.v.largest(), x.s0.largest(), 1.0});
  return 16 * rows * static_cast<double>(x.v.extent(3)) * x.dout.largest() * values;
}

template <class T> double scored_error(const law_call& x, const std::string& name, bool on_unit) {
  const double scale = x.scale.value_or(1 / std::sqrt(static_cast<double>(x.q.extent(3))));
  const double q = x.q.longest_row(), k = x.k.longest_row(), product = scale * q * k;
  const double score = (x.softcap > 0 ? std::min(product, x.softcap) : product) + x.bias.largest() +
                       x.alibi * static_cast<double>(x.queries() + x.keys());
  const double weights = weight_error<T>(x, score, on_unit);
  const double gate = x.of == kernel::mixture_of_head ? std::max(x.gates.largest(), 1.0) : 1;
  // local linear: a weight changes C by its share of |kappa|^2, and that the slope, at most |q - mean key| / ridge
  double fit = 1, slope = 0;
  const double spread = 2 * k, distance = q + k;
  if (x.of == kernel::local_linear) {
    const double ridge = *std::min_element(x.ridge.begin(), x.ridge.end());
    slope = (spread + spread * spread * distance / ridge) / ridge;
    fit = 1 + spread * (distance / ridge + slope);
  }
  if (name == "lse") return weights;
  if (name == "o") return weights * x.v.largest() * gate * fit;
  if (name == "slope") return weights * slope;
  if (name == "mean_key") return weights * spread;
  return weights * gradient_size(x) * std::max({1.0, scale * q, scale * k}) * gate * fit * fit;
}

template <class T> double recurrent_error(const law_call& x, const std::string& name) {
  const bool linear = x.of == kernel::linear;
  const double tokens = static_cast<double>(x.keys()), features = static_cast<double>(x.features());
  const double of_q = linear ? largest_feature(x.feature, x.q.largest()) : x.q.largest();
  const double of_k = linear ? largest_feature(x.feature, x.k.largest()) : x.k.largest();
  const double error = recurrent_tolerance<T>(x.keys(), x.features()), scale = std::max(x.scale.value_or(1), 0.0);
  if (name == "s") return error * (tokens * of_k * x.v.largest() + x.s0.largest());
  if (name == "z") return error * (tokens * of_k + x.z0.largest());
  const bool normalized = linear && x.normalize;
  double least_sum = 1;  // of a feature in an initial state
  for (const double z : x.z0.all()) least_sum = std::min(least_sum, z);
  if (name == "o" && normalized) return 2 * error * std::max(x.v.largest(), x.s0.largest() / least_sum);
  if (name == "o") return error * scale * features * of_q * (tokens * of_k * x.v.largest() + x.s0.largest());
  const double decayed = linear ? 1 : tokens;  // a gradient of a decay counts the tokens over which it acts
  return error * gradient_size(x) * features * std::max(of_q, 1.0) * std::max(of_k, 1.0) * decayed / least_sum;
}

}  // namespace

double allowed_error(const law_call& x, const std::string& name, bool on_unit) {
  const bool exact = x.type == number_type::f64, gradient = name[0] == 'd';
  if (gradient && !exact) throw std::logic_error("no tolerance for gradients in float");
  double error = 0;
  if (is_recurrent(x.of))
    error = exact ? recurrent_error<double>(x, name) : recurrent_error<float>(x, name);
  else
    error = exact ? scored_error<double>(x, name, on_unit) : scored_error<float>(x, name, on_unit);
  return 2 * error;  // of each of the two results
}

std::string too_far(const law_numbers& a, const law_numbers& b, double allowed) {
  if (a.size() != b.size()) return "other extents";
  for (std::size_t i = 0; i < a.all().size(); ++i) {
    const double x = a.all()[i], y = b.all()[i];
    const bool near = std::isfinite(x) && std::isfinite(y) ? std::abs(x - y) <= allowed : x == y;
    if (near) continue;
    char text[160];
    std::snprintf(text, sizeof text, "number %zu is %.9g and %.9g, allowed are %.3g", i, x, y, allowed);
    return text;
  }
  return "";
}

std::string too_far(const law_call& x, const law_results& a, const law_results& b) {
  const stored narrow = x.type == number_type::bf16 ? stored::bf16 : stored::f16;
  for (const auto& [name, numbers] : b.each) {
    if (a[name].empty() && numbers.empty()) continue;
    double allowed = allowed_error(x, name, a.rounded_weights || b.rounded_weights);
    if (name == "o" && x.narrow_o) allowed += 2 * rounding_of(narrow).at(numbers.largest() + allowed);
    const std::string wrong = too_far(a[name], numbers, allowed);
    if (!wrong.empty()) return name + ": " + wrong;
  }
  return "";
}

std::string other_bits(const law_numbers& a, const law_numbers& b) {
  if (a.size() != b.size()) return "other extents";
  for (std::size_t i = 0; i < a.all().size(); ++i) {
    const double x = a.all()[i], y = b.all()[i];
    if (std::memcmp(&x, &y, sizeof x) == 0) continue;
    char text[160];
    std::snprintf(text, sizeof text, "number %zu of %zu is %.17g and %.17g", i, a.all().size(), x, y);
    return text;
  }
  return "";
}

std::string other_bits(const law_results& a, const law_results& b) {
  for (const auto& [name, numbers] : b.each) {
    const std::string wrong = other_bits(a[name], numbers);
    if (!wrong.empty()) return name + ": " + wrong;
  }
  return a.each.size() == b.each.size() ? "" : "other results";
}

std::vector<index_t> shuffled(index_t count, random_numbers& random) {
  std::vector<index_t> order;
  for (index_t i = 0; i < count; ++i) order.push_back(i);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<std::int32_t>(i)))]);
  return order;
}

}  // namespace heed_test
