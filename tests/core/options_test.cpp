// SPDX-License-Identifier: BSD-3-Clause

// Options as users write them: every member keeps what it was given; per_head, score_function and feature_map from what
// they accept.

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/core/feature_map.hpp"
#include "heed/softmax/options.hpp"
#include "support/catch.hpp"

namespace {

using heed::feature_map;
using heed::index_t;
using heed::per_head;
using heed::position;
using heed::score_function;
using heed::softmax::gradients;
using heed::softmax::options;

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

static_assert(std::is_aggregate_v<options<>> && std::is_trivially_copyable_v<options<>>);
static_assert(std::is_aggregate_v<gradients<double>> && std::is_trivially_copyable_v<gradients<double>>);
static_assert(std::is_same_v<options<>, options<float>> && std::is_same_v<gradients<>, gradients<float>>);
static_assert(std::is_trivially_copyable_v<per_head> && std::is_trivially_copyable_v<score_function<double>>);

template <class R> constexpr bool is_per_head = std::is_convertible_v<R, per_head>;
static_assert(is_per_head<double> && is_per_head<float> && is_per_head<int> && !is_per_head<bool>);
static_assert(is_per_head<std::vector<float>&> && is_per_head<const std::vector<double>&>);
static_assert(is_per_head<std::span<const float>> && is_per_head<std::array<double, 2>&> && is_per_head<float (&)[4]>);
static_assert(is_per_head<Eigen::VectorXf&> && is_per_head<const Eigen::RowVectorXd&>);
static_assert(is_per_head<Eigen::Map<Eigen::VectorXf>> && is_per_head<heed::tensor_view<const float, 1>>);
static_assert(is_per_head<std::vector<float>> && is_per_head<Eigen::VectorXf>);  // copied
static_assert(!is_per_head<std::vector<int>> && !is_per_head<row_major> && !is_per_head<float*>);
static_assert(!is_per_head<std::vector<int>&> && !is_per_head<row_major&> && !is_per_head<heed::tensor_view<float, 2>>);

std::vector<double> read(const per_head& x) {
  std::vector<double> all;
  for (index_t h = 0; h < x.size(); ++h) all.push_back(x.at(h));
  return all;
}

TEST_CASE("per_head: nothing, one number, or one each in any stride") {
  using doubles = std::vector<double>;
  constexpr per_head none, zero = 0;
  STATIC_REQUIRE_FALSE(none.set());
  STATIC_REQUIRE(zero.set());
  STATIC_REQUIRE_FALSE(zero.one_each());
  const per_head one = 0.5f;
  CHECK(one.set());
  CHECK(one.at(0) == 0.5);
  CHECK(one.at(7) == 0.5);
  CHECK(per_head(3).at(1) == 3.0);
  CHECK(std::isnan(per_head(std::numeric_limits<double>::quiet_NaN()).at(0)));

  const std::vector<float> floats{1, 2, 3};
  const double array[2] = {4, 5};
  CHECK(per_head(floats).one_each());
  CHECK(read(floats) == doubles{1, 2, 3});
  CHECK(read(array) == doubles{4, 5});
  CHECK(read(std::span(floats).subspan(1)) == doubles{2, 3});
  row_major m(3, 4);
  for (index_t i = 0; i < 12; ++i) m.data()[i] = static_cast<float>(i);
  CHECK(read(m.col(1)) == doubles{1, 5, 9});
  CHECK(read(m.row(2)) == doubles{8, 9, 10, 11});
  const Eigen::VectorXd column = Eigen::VectorXd::LinSpaced(3, 1, 3);
  CHECK(read(column) == doubles{1, 2, 3});
  CHECK(read(heed::tensor_view<const float, 1>(floats.data() + 2, {3}, {-1})) == doubles{3, 2, 1});

  std::vector<double> later{0, 0};
  const per_head viewed = later;  // a view: reads what is there at the call
  later[1] = 9;
  CHECK(viewed.at(1) == 9);
  const std::vector<float> empty;
  CHECK(per_head(empty).set());  // given, though empty: the call checks the count
  CHECK(per_head(empty).one_each());
  CHECK_FALSE(per_head(heed::tensor_view<float, 1>()).set());
}

struct owning {
  std::shared_ptr<int> captured;
  float operator()(float s, const position&) const { return s; }
};
struct big {
  std::array<float, 9> captured;
  float operator()(float s, const position&) const { return s; }
};
template <class F> constexpr bool is_score = std::is_convertible_v<F, score_function<float>>;
static_assert(is_score<float (*)(float, const position&)> && is_score<double (*)(double, position)>);
static_assert(is_score<float (&)(float, const position&)> && is_score<float(float, const position&)>);
static_assert(!is_score<owning> && !is_score<big> && !is_score<int> && !is_score<float (*)(float)>);

template <class Acc> void check_score_function() {
  const Acc factor = 3, offset = 4;
  score_function<Acc> score{
      [factor](Acc s, const position& at) { return factor * s + static_cast<Acc>(at.place - at.key); },
      [offset](Acc, const position& at) { return offset + static_cast<Acc>(at.head); }};
  const auto& parts = heed::detail::parts(score);
  REQUIRE(parts.map_value != nullptr);
  REQUIRE(parts.map_derivative != nullptr);
  const index_t keys = 3, lanes = 21, stride = 24;
  const std::vector<std::int32_t> head(21, 2), query(21, 0), place(21, 50);
  std::vector<Acc> value(static_cast<std::size_t>(keys * stride), Acc(2)), derivative = value;
  const auto tile = [&](std::vector<Acc>& scores) {
    return heed::detail::score_tile<Acc>{scores.data(), stride,       40,          keys, lanes, 0,
                                         head.data(),   query.data(), place.data()};
  };
  heed::detail::map_value(parts, tile(value));
  heed::detail::map_derivative(parts, tile(derivative));
  int wrong = 0;
  for (index_t j = 0; j < keys; ++j)
    for (index_t lane = 0; lane < stride; ++lane) {
      const auto i = static_cast<std::size_t>(j * stride + lane);
      wrong += value[i] != (lane < lanes ? Acc(6 + 10 - j) : Acc(2));
      wrong += derivative[i] != (lane < lanes ? Acc(6) : Acc(2));
    }
  CHECK(wrong == 0);
}

TEST_CASE("score_function maps a tile's scores, and its derivative likewise") {
  check_score_function<float>();
  check_score_function<double>();
  CHECK(heed::detail::parts(score_function<float>()).map_value == nullptr);
  const score_function<float> alone = [](float s, const position&) { return s; };
  CHECK(heed::detail::parts(alone).map_value != nullptr);
  CHECK(heed::detail::parts(alone).map_derivative == nullptr);
}

struct owning_element {
  std::shared_ptr<int> captured;
  float operator()(float x) const { return x; }
};
struct big_element {
  std::array<float, 9> captured;
  float operator()(float x) const { return x; }
};
struct full_element {  // as much as is stored
  std::array<float, 8> captured;
  float operator()(float x) const { return x * captured[7]; }
};
template <class F, class D = F> constexpr bool is_feature = std::is_constructible_v<feature_map<float>, F, D>;
static_assert(std::is_trivially_copyable_v<feature_map<double>>);
static_assert(std::is_convertible_v<heed::feature, feature_map<float>>);
static_assert(is_feature<float (*)(float)> && is_feature<full_element> && is_feature<float (*)(float), full_element>);
static_assert(!is_feature<owning_element> && !is_feature<big_element> && !is_feature<float (*)(float), big_element>);
static_assert(!is_feature<int> && !is_feature<float (*)(float, float)>);
static_assert(!std::is_constructible_v<feature_map<float>, float (*)(float)>);  // without a derivative

template <class Acc> void check_feature_map() {
  const auto numbers = [] {
    return std::vector<Acc>{-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  };
  const auto run = [&](heed::detail::row_function<Acc> f, const heed::detail::function_bytes& function) {
    auto x = numbers();
    f(function.bytes, x.data(), static_cast<index_t>(x.size()) - 1);  // the last is another's
    return x;
  };
  const auto expected = [&](auto f) {
    auto x = numbers();
    for (std::size_t i = 0; i + 1 < x.size(); ++i) x[i] = f(x[i]);
    return x;
  };
  feature_map<Acc> copy = heed::feature::exp;
  {
    const Acc factor = 3, offset = 0.5;
    const feature_map<Acc> map{[factor, offset](Acc x) { return factor * x * x + offset; },
                               [factor](Acc x) { return 2 * factor * x; }};
    copy = map;
  }
  const auto& parts = heed::detail::parts(copy);
  REQUIRE(parts.map_value != nullptr);
  REQUIRE(parts.map_derivative != nullptr);
  CHECK(run(parts.map_value, parts.value) == expected([](Acc x) { return 3 * x * x + Acc(0.5); }));
  CHECK(run(parts.map_derivative, parts.derivative) == expected([](Acc x) { return 6 * x; }));
  CHECK(heed::detail::feature_dim(parts, 5) == 5);
}

TEST_CASE("feature_map stores a function and its derivative by value, element by element") {
  check_feature_map<float>();
  check_feature_map<double>();
  const feature_map<float> full(full_element{{0, 0, 0, 0, 0, 0, 0, 3}}, full_element{{0, 0, 0, 0, 0, 0, 0, 5}});
  float value = 2, derivative = 2;
  heed::detail::parts(full).map_value(heed::detail::parts(full).value.bytes, &value, 1);
  heed::detail::parts(full).map_derivative(heed::detail::parts(full).derivative.bytes, &derivative, 1);
  CHECK((value == 6 && derivative == 10));

  const feature_map<float> taylor = heed::feature::taylor;
  const auto& parts = heed::detail::parts(taylor);
  CHECK(parts.built_in == heed::feature::taylor);
  CHECK((parts.map_value == nullptr && parts.map_derivative == nullptr));
  CHECK(heed::detail::feature_dim(parts, 5) == 31);
}

TEST_CASE("softmax options: defaults") {
  const options<> o;
  CHECK(heed::detail::parts(o.mask).present == 0);
  CHECK_FALSE(heed::detail::parts(o.align).top_left);
  CHECK_FALSE(o.scale.has_value());
  CHECK(o.softcap == 0);
  CHECK_FALSE(o.alibi_slopes.set());
  CHECK(o.bias.data() == nullptr);
  CHECK(heed::detail::parts(o.score).map_value == nullptr);
  CHECK_FALSE(o.sink_logits.set());
  CHECK(o.lse.data() == nullptr);
  const gradients<> g;
  CHECK((g.dq.data() == nullptr && g.dk.data() == nullptr && g.dv.data() == nullptr && g.dbias.data() == nullptr));
  CHECK((g.dsink_logits.data() == nullptr && g.dalibi_slopes.data() == nullptr && g.dlse.data() == nullptr));
}

TEST_CASE("softmax options: every member by name, in order") {
  std::vector<float> slopes{0.5f, 0.25f};
  row_major bias = row_major::Zero(3, 4);
  Eigen::VectorXf lse(3);
  const options<> o{.mask = heed::causal() & heed::window(255),
                    .align = heed::top_left,
                    .scale = 0,
                    .softcap = 30.f,
                    .alibi_slopes = slopes,
                    .bias = bias,
                    .score = [](float s, const position&) { return 2 * s; },
                    .sink_logits = -1,
                    .lse = lse};
  CHECK(heed::detail::parts(o.mask).left == 255);
  CHECK(heed::detail::parts(o.align).top_left);
  CHECK(o.scale == 0.0);
  CHECK(o.softcap == 30);
  CHECK(read(o.alibi_slopes) == std::vector<double>{0.5, 0.25});
  CHECK(o.bias.data() == bias.data());
  CHECK(o.bias.extent(3) == 4);
  CHECK(heed::detail::parts(o.score).map_value != nullptr);
  CHECK(o.sink_logits.at(1) == -1);
  CHECK(o.lse.data() == lse.data());
  CHECK(o.lse.extent(2) == 3);
  CHECK(o.lse.extent(0) == 1);

  Eigen::MatrixXd dq(3, 4);
  const Eigen::VectorXd dlse(3);
  double dsink[2] = {};
  const gradients<double> g{.dq = dq, .dsink_logits = dsink, .dlse = dlse};
  CHECK(g.dq.data() == dq.data());
  CHECK(g.dsink_logits.extent(0) == 2);
  CHECK(g.dlse.data() == dlse.data());
  CHECK(g.dv.data() == nullptr);
}

}  // namespace
