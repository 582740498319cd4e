// SPDX-License-Identifier: BSD-3-Clause

// The golden cases with q, k and v rounded to 16 bit: beside the reference of the rounded numbers, and beside the
// golden numbers as far as rounding the inputs can move them.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "heed/reference/softmax.hpp"
#include "support/catch.hpp"
#include "support/golden_softmax.hpp"
#include "support/half_case.hpp"

using namespace heed_test;

namespace {

// x rounded to S, and in x itself
template <class S> golden_tensor<S> narrow(golden_tensor<float>& x) {
  golden_tensor<S> to;
  to.shape = x.shape;
  for (float& each : x.data) to.data.push_back(S(each)), each = static_cast<float>(to.data.back());
  return to;
}

// How far rounding q, k and v may move a row. A score moves by at most
//
//   E = scale * max over the visible keys of sum_d |q k - q~ k~|
//
// (a soft cap has slope at most 1; masks, bias and slopes are not rounded), so p by factors within exp(+-2 E), o by at
// most (exp(2 E) - 1) mean |v~ - o| + max |v - v~| and lse by E.
struct moved {
  double score = 0, value = 0;
  double of_output(double largest_value) const { return std::expm1(2 * score) * largest_value + value; }
};

// A case with inputs of S and an o of O
template <class S, class O> void run_case(const golden_file& file, const std::string& name) {
  const golden_softmax<float> exact(file, name);
  golden_softmax<float> x(file, name);
  const golden_tensor<S> q = narrow<S>(x.q), k = narrow<S>(x.k), v = narrow<S>(x.v);
  golden_tensor<O> o;
  o.shape = x.got_o.shape, o.data.resize(x.got_o.data.size());
  const stored_call call{q.template cview<4>(), k.template cview<4>(), v.template cview<4>(), o.template view<4>()};
  const heed::plan plan = plan_stored(call, x.options, {});
  INFO(name << ": " << plan.path << " " << plan.problem.data());
  REQUIRE(plan.ok());
  run_stored(call, x.options, {});
  const std::vector<float> lse = x.got_lse.data;

  golden_tensor<double> expected;
  expected.shape = o.shape, expected.data.resize(o.data.size());
  heed::reference::softmax::forward(x.q.template cview<4>(), x.k.template cview<4>(), x.v.template cview<4>(),
                                    expected.template view<4>(), x.options);
  const golden_tensor<float> expected_lse = x.got_lse;
  x.got_lse.data = lse;

  const auto q0 = exact.q.cview<4>(), k0 = exact.k.cview<4>(), v0 = exact.v.cview<4>();
  const auto q1 = x.q.cview<4>(), k1 = x.k.cview<4>(), v1 = x.v.cview<4>();
  const golden_tensor<double> golden = file.tensor<double>(name + "/o"),
                              golden_lse = file.tensor<double>(name + "/lse");
  const index_t dim = q1.extent(3), keys = k1.extent(2), heads = std::max(q1.extent(1), k1.extent(1));
  const double scale = std::abs(x.options.scale.value_or(1 / std::sqrt(static_cast<double>(dim))));
  tolerance rounding = tolerance_of<float>(keys, dim);
  if constexpr (std::is_same_v<S, heed::bf16_t>) rounding.weights = sums_in_float(plan) ? 0 : rounded_weights;
  const storage_rounding stored = sizeof(O) == 4                   ? storage_rounding{}
                                  : std::is_same_v<O, heed::f16_t> ? f16_rounding
                                                                   : bf16_rounding;
  verdict of_reference, of_golden;
  const auto row = [&](const auto& s, index_t h, index_t i, const auto& scores, const auto& values) {
    const index_t b = s.batch, n = s.first_query + i, qh = h / (heads / q1.extent(1)), kh = h / (heads / k1.extent(1));
    row_size size;
    moved by;
    for (index_t j = 0; j < scores.size(); ++j) {
      if (scores(j) == -HUGE_VAL) continue;
      double change = 0;
      const index_t key = s.first_key + j;
      for (index_t d = 0; d < dim; ++d)
        change += std::abs(double{q0(b, qh, n, d)} * double{k0(b, kh, key, d)} -
                           double{q1(b, qh, n, d)} * double{k1(b, kh, key, d)});
      by.score = std::max(by.score, scale * change);
      size.see_score(scores(j));
      for (index_t e = 0; e < values.cols(); ++e) {
        size.see_value(values(j, e));
        by.value = std::max(by.value, std::abs(double{v0(b, kh, key, e)} - double{v1(b, kh, key, e)}));
      }
    }
    const double error = rounding.of_output(size), lse_error = rounding.of_lse(size);
    for (index_t e = 0; e < values.cols(); ++e) {
      const double got = static_cast<double>(static_cast<float>(o.template cview<4>()(b, h, n, e)));
      const double rounded_inputs = expected.template cview<4>()(b, h, n, e), given = golden.cview<4>()(b, h, n, e);
      of_reference.add(got, rounded_inputs, stored.around(rounded_inputs, error), "o", b, h, n, e);
      of_golden.add(got, given, stored.around(given, error + by.of_output(size.max_value)), "o", b, h, n, e);
    }
    const double got = x.got_lse.template cview<3>()(b, h, n);
    of_reference.add(got, expected_lse.template cview<3>()(b, h, n), lse_error, "lse", b, h, n, 0);
    of_golden.add(got, golden_lse.cview<3>()(b, h, n), lse_error + by.score, "lse", b, h, n, 0);
  };
  heed::reference::softmax::detail::each_row(q1, k1, v1, x.options, row);
  INFO(of_reference.where << "; golden: " << of_golden.where);
  CHECK(of_reference.worst <= 1);
  CHECK(of_golden.worst <= 1);
}

template <class S> void run_all() {
  const golden_file file("softmax");
  REQUIRE(file.cases().size() == 45);
  for (const std::string& name : file.cases()) run_case<S, S>(file, name), run_case<S, float>(file, name);
}

}  // namespace

TEST_CASE("golden cases in bf16") { run_all<heed::bf16_t>(); }
TEST_CASE("golden cases in f16") { run_all<heed::f16_t>(); }
