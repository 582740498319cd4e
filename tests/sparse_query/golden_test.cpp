// SPDX-License-Identifier: BSD-3-Clause

// The golden cases of sparse query attention, in float and double: o, lse, the heads side by side (concat), and, where
// the case has the layer around it, that layer's output.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/golden_softmax.hpp"
#include "support/softmax_run.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

double largest(const golden_tensor<double>& x) {
  double most = 0;
  for (const double value : x.data) most = std::max(most, std::abs(value));
  return most;
}

// Largest difference; NaN is infinitely far.
template <class T> double difference(const std::vector<T>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  double most = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - expected[i]);
    most = d <= most ? most : std::isnan(d) ? HUGE_VAL : d;
  }
  return most;
}

// y = concat w^T + b for rows of concat; w (width, heads * e)
template <class T>
std::vector<double> project(const std::vector<T>& concat, const golden_tensor<double>& w,
                            const golden_tensor<double>& b) {
  const auto width = static_cast<std::size_t>(w.shape[0]), inner = static_cast<std::size_t>(w.shape[1]);
  std::vector<double> y;
  for (std::size_t row = 0; row < concat.size() / inner; ++row)
    for (std::size_t c = 0; c < width; ++c) {
      double sum = b.data[c];
      for (std::size_t i = 0; i < inner; ++i)
        sum += static_cast<double>(concat[row * inner + i]) * w.data[c * inner + i];
      y.push_back(sum);
    }
  return y;
}

template <class T> void run_all() {
  const golden_file file("sparse_query");
  REQUIRE(file.cases().size() == 9);
  int layers = 0;
  for (const std::string& name : file.cases()) {
    INFO(name);
    golden_softmax<T> x(file, name);
    const auto q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
    run_forward<T>(q, k, v, x.got_o.template view<4>(), x.options, {});
    CHECK(x.right());

    // written as the input of the output projection: (batch, n, head * e)
    const auto expected = file.tensor<double>(name + "/concat");
    const index_t heads = x.got_o.shape[1], n = q.extent(2), e = v.extent(3);
    CHECK(heads == std::max(q.extent(1), k.extent(1)));
    CHECK(heads == static_cast<index_t>(file.number(name + "/output_heads")));
    std::vector<T> concat(expected.data.size(), std::numeric_limits<T>::quiet_NaN());
    run_forward<T>(q, k, v, heed::bshd(concat.data(), q.extent(0), n, heads, e), x.options, {});
    const double allowed = std::is_same_v<T, double> ? 1e-12 : 1e-5;
    CHECK(difference(concat, expected.data) <= allowed * std::max(1.0, largest(expected)));

    if (!file.has(name + "/authors_y")) continue;
    ++layers;  // their q, k, v are not rounded to float: about 1e-6 apart
    const auto y = file.tensor<double>(name + "/authors_y");
    const auto got = project(concat, file.tensor<double>(name + "/w_out"), file.tensor<double>(name + "/b_out"));
    CHECK(difference(got, y.data) <= 1e-5 * std::max(1.0, largest(y)));
  }
  CHECK(layers == 4);
}

}  // namespace

TEST_CASE("golden cases in float") { run_all<float>(); }
TEST_CASE("golden cases in double") { run_all<double>(); }
