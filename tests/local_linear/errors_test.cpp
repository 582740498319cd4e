// SPDX-License-Identifier: BSD-3-Clause

// Bad calls: forward and apply throw before they write, the text names the argument and the numbers, and the plan says
// the same without throwing. What softmax checks too is here in examples only.

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_case.hpp"
#include "support/messages.hpp"
#include "support/vectors.hpp"

using namespace heed_test;

namespace {

constexpr shape good{2, 4, 2, 5, 7, 8, 6};
constexpr heed::local_linear::report sentinel{9, 9, 9, 9, 9, 9};

struct call {
  local_linear_case<float> x{good};
  buffer<float> slopes = buffer<float>::input({2, 4, 5, 8});
  input<float> q = x.q.cview(), k = x.k.cview(), v = x.v.cview(), given = slopes.cview();
  output<float> o = x.o.view();
  heed::per_head ridge = 0.5;
  heed::local_linear::options<float> options = x.options;

  heed::plan plan(bool apply) const {
    return apply ? run_plan_apply<float>(q, k, v, given, o, options, {})
                 : run_plan_forward<float>(q, k, v, ridge, o, options, {});
  }
  std::string thrown(bool apply) const {
    return thrown_by([&] {
      apply ? run_apply<float>(q, k, v, given, o, options, {}) : run_forward<float>(q, k, v, ridge, o, options, {});
    });
  }
  bool untouched() const {
    const auto& r = *x.report;
    return x.o.untouched() && x.lse.untouched() && x.slope.untouched() && x.mean.untouched() && r.max_residual == 9 &&
           r.unconverged == 9 && r.direct_rows == 9;
  }
};

enum class verb { forward, apply, both };
using bend = std::function<void(call&)>;

void refused(verb which, const char* what, const std::vector<std::string>& must, const bend& f) {
  for (const bool apply : {false, true}) {
    if (which != verb::both && (which == verb::apply) != apply) continue;
    call c;
    f(c);
    *c.x.report = sentinel;
    const heed::plan plan = c.plan(apply);
    const std::string text = c.thrown(apply);
    INFO(what << ": " << text);
    CHECK_FALSE(plan.ok());
    CHECK(text == plan.problem.data());
    CHECK(c.untouched());
    const std::vector<std::string> said = words(text);
    for (const std::string& word : must) {
      INFO("must say " << word);
      CHECK(std::find(said.begin(), said.end(), word) != said.end());
    }
  }
}
void accepted(verb which, const char* what, const bend& f) {
  for (const bool apply : {false, true}) {
    if (which != verb::both && (which == verb::apply) != apply) continue;
    call c;
    f(c);
    INFO(what);
    CHECK(c.plan(apply).ok());
    CHECK(c.thrown(apply).empty());
    CHECK_FALSE(c.x.o.untouched());
  }
}

template <class T> heed::tensor_view<T, 4> with(heed::tensor_view<T, 4> x, int axis, index_t extent) {
  std::array<index_t, 4> n{}, s{};
  for (int a = 0; a < 4; ++a) {
    n[static_cast<std::size_t>(a)] = a == axis ? extent : x.extent(a);
    s[static_cast<std::size_t>(a)] = x.stride(a);
  }
  return {x.data(), n, s};
}
template <class T> heed::tensor_view<T, 4> at(heed::tensor_view<T, 4> x, T* data) {
  return {
      data, {x.extent(0), x.extent(1), x.extent(2), x.extent(3)}, {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}
heed::tensor_view<float, 4> strided(heed::tensor_view<float, 4> x) {  // last stride 2
  return {x.data(), {2, 4, 5, 8}, {x.stride(0), x.stride(1), x.stride(2), 2}};
}

}  // namespace

TEST_CASE("the call that the others bend is good") {
  accepted(verb::both, "as it is", [](call&) {});
}

TEST_CASE("ridge: more than 0, one or as many as o has heads") {
  static const std::vector<float> three(3, 1.0f), zero{1, 1, 0, 1}, four(4, 1.0f), subnormal{1, 1, 1, 1e-40f};
  static const std::vector<double> minus{1, -0.5, 1, 1}, nan_last{1, 1, 1, NAN}, none, infinite{1, HUGE_VAL, 1, 1};
  refused(verb::forward, "0", {"ridge", "0"}, [](call& c) { c.ridge = 0; });
  refused(verb::forward, "negative", {"ridge", "-2", "0"}, [](call& c) { c.ridge = -2; });
  refused(verb::forward, "-infinity", {"ridge", "0"}, [](call& c) { c.ridge = -HUGE_VAL; });
  refused(verb::forward, "NaN", {"ridge", "nan", "0"}, [](call& c) { c.ridge = NAN; });
  const auto same_memory = [](const auto& x) { return heed::tensor_view<const float, 1>(x.data(), {4}, {1}); };
  refused(verb::forward, "o", {"o", "ridge", "memory"}, [&](call& c) { c.ridge = same_memory(c.o); });
  refused(verb::forward, "slope", {"slope", "ridge", "memory"},
          [&](call& c) { c.ridge = same_memory(c.options.slope); });
  refused(verb::both, "slopes of ALiBi", {"o", "alibi_slopes", "memory"},
          [&](call& c) { c.options.alibi_slopes = same_memory(c.o); });
  refused(verb::forward, "solver", {"solver", "7"},
          [](call& c) { c.options.solver = static_cast<heed::local_linear::solver>(7); });
  refused(verb::forward, "not supplied", {"ridge", "4"}, [](call& c) { c.ridge = {}; });
  refused(verb::forward, "three", {"ridge", "3", "4"}, [](call& c) { c.ridge = three; });
  refused(verb::forward, "none", {"ridge", "0", "4"}, [](call& c) { c.ridge = none; });
  refused(verb::forward, "one of four is 0", {"ridge", "2", "0"}, [](call& c) { c.ridge = zero; });
  refused(verb::forward, "one of four is negative", {"ridge", "1", "-0", "5"}, [](call& c) { c.ridge = minus; });
  refused(verb::forward, "one of four is NaN", {"ridge", "3", "nan"}, [](call& c) { c.ridge = nan_last; });
  accepted(verb::forward, "four", [](call& c) { c.ridge = four; });
  accepted(verb::forward, "infinity", [](call& c) { c.ridge = HUGE_VAL; });
  accepted(verb::forward, "one of four is infinity", [](call& c) { c.ridge = infinite; });
  accepted(verb::forward, "the smallest",
           [](call& c) { c.ridge = std::numeric_limits<double>::min(), c.options.solver = solver::automatic; });
  refused(verb::forward, "subnormal", {"ridge", "0"},
          [](call& c) { c.ridge = std::numeric_limits<double>::denorm_min(); });
  refused(verb::forward, "one of four is subnormal", {"ridge", "3", "0"}, [](call& c) { c.ridge = subnormal; });
}

TEST_CASE("tolerance and max_iterations") {
  refused(verb::forward, "tolerance 0", {"tolerance", "0"}, [](call& c) { c.options.tolerance = 0; });
  refused(verb::forward, "tolerance -1", {"tolerance", "-1", "0"}, [](call& c) { c.options.tolerance = -1; });
  refused(verb::forward, "tolerance NaN", {"tolerance", "nan", "0"}, [](call& c) { c.options.tolerance = NAN; });
  refused(verb::forward, "no iterations", {"max_iterations", "0", "1"}, [](call& c) { c.options.max_iterations = 0; });
  refused(verb::forward, "-3 iterations", {"max_iterations", "-3", "1"},
          [](call& c) { c.options.max_iterations = -3; });
  accepted(verb::apply, "they have no part in apply", [](call& c) {
    c.options.tolerance = NAN, c.options.max_iterations = 0, c.options.slope = with(c.x.slope.view(), 3, 5);
  });
}

TEST_CASE("shapes that disagree: both arguments and both numbers") {
  const verb both = verb::both;
  refused(both, "batch of k", {"q", "k", "2", "3"}, [](call& c) { c.k = with(c.k, 0, 3); });
  refused(both, "heads of q and k", {"q", "k", "4", "3"},
          [](call& c) { c.k = with(c.k, 1, 3), c.v = with(c.v, 1, 3); });
  refused(both, "heads of v", {"k", "v", "2", "1"}, [](call& c) { c.v = with(c.v, 1, 1); });
  refused(both, "heads of o", {"o", "4", "2"}, [](call& c) { c.o = with(c.o, 1, 2); });
  refused(both, "keys of v", {"k", "v", "7", "6"}, [](call& c) { c.v = with(c.v, 2, 6); });
  refused(both, "queries of o", {"o", "q", "5", "4"}, [](call& c) { c.o = with(c.o, 2, 4); });
  refused(both, "dim of k", {"q", "k", "8", "7"}, [](call& c) { c.k = with(c.k, 3, 7); });
  refused(both, "dim of o", {"o", "v", "6", "5"}, [](call& c) { c.o = with(c.o, 3, 5); });
  refused(both, "D = 0", {"q", "0"}, [](call& c) { c.q = with(c.q, 3, 0), c.k = with(c.k, 3, 0); });
  refused(both, "queries of lse", {"lse", "5", "4"}, [](call& c) {
    c.options.lse = {c.x.lse.view().data(), {2, 4, 4}, {16, 4, 1}};
  });
  refused(both, "null q", {"q", "null"}, [](call& c) { c.q = at<const float>(c.q, nullptr); });
}

TEST_CASE("slope and mean_key: axis, extent and what it must be") {
  for (const bool mean : {false, true}) {
    const char* const name = mean ? "mean_key" : "slope";
    const verb which = mean ? verb::both : verb::forward;
    const auto set = [mean](call& c, const output<float>& x) { (mean ? c.options.mean_key : c.options.slope) = x; };
    const auto get = [mean](call& c) { return mean ? c.x.mean.view() : c.x.slope.view(); };
    refused(which, "batch", {name, "0", "1", "2"}, [&](call& c) { set(c, with(get(c), 0, 1)); });
    refused(which, "heads", {name, "1", "2", "4"}, [&](call& c) { set(c, with(get(c), 1, 2)); });
    refused(which, "queries", {name, "2", "4", "5"}, [&](call& c) { set(c, with(get(c), 2, 4)); });
    refused(which, "dim", {name, "3", "6", "8"}, [&](call& c) { set(c, with(get(c), 3, 6)); });
    refused(which, "stride", {name, "2", "1"}, [&](call& c) { set(c, strided(get(c))); });
    refused(which, "every query in one place", {name, "0"}, [&](call& c) {
      set(c, {get(c).data(), {2, 4, 5, 8}, {160, 40, 0, 1}});
    });
    const auto in_place_of = [&](const char* other, const std::function<float*(call&)>& data) {
      refused(which, other, {name, other}, [&](call& c) { set(c, at<float>(get(c), data(c))); });
    };
    in_place_of("q", [](call& c) { return c.x.q.view().data(); });
    in_place_of("k", [](call& c) { return c.x.k.view().data(); });
    in_place_of("v", [](call& c) { return c.x.v.view().data(); });
    in_place_of("o", [](call& c) { return c.x.o.view().data(); });
    in_place_of("lse", [](call& c) { return c.x.lse.view().data(); });
    static float bias[7] = {};
    refused(which, "bias", {name, "bias"}, [&](call& c) {
      c.options.bias = {bias, {1, 1, 1, 7}, {0, 0, 0, 1}};
      set(c, at<float>(get(c), bias));
    });
  }
  refused(verb::forward, "slope is mean_key", {"slope", "mean_key"},
          [](call& c) { c.options.mean_key = c.options.slope; });
}

TEST_CASE("the slopes that apply is given") {
  refused(verb::apply, "batch", {"slope", "0", "1", "2"}, [](call& c) { c.given = with(c.given, 0, 1); });
  refused(verb::apply, "heads", {"slope", "1", "2", "4"}, [](call& c) { c.given = with(c.given, 1, 2); });
  refused(verb::apply, "queries", {"slope", "2", "4", "5"}, [](call& c) { c.given = with(c.given, 2, 4); });
  refused(verb::apply, "dim", {"slope", "3", "7", "8"}, [](call& c) { c.given = with(c.given, 3, 7); });
  refused(verb::apply, "null", {"slope", "null"}, [](call& c) { c.given = at<const float>(c.given, nullptr); });
  refused(verb::apply, "o is slope", {"o", "slope"}, [](call& c) { c.o = at<float>(c.o, c.slopes.view().data()); });
  refused(verb::apply, "lse is slope", {"lse", "slope"}, [](call& c) {
    c.options.lse = {c.slopes.view().data(), {2, 4, 5}, {20, 5, 1}};
  });
  refused(verb::apply, "mean_key is slope", {"mean_key", "slope"},
          [](call& c) { c.options.mean_key = c.slopes.view(); });
  accepted(verb::apply, "one slope for all heads", [](call& c) {
    c.given = {c.slopes.view().data(), {2, 4, 5, 8}, {160, 0, 8, 1}};
  });
}

TEST_CASE("masks and values that softmax refuses too") {
  static const std::vector<std::int32_t> beyond{8, 3};
  static const std::vector<float> three(3, 1.0f);
  refused(verb::both, "o is q", {"o", "q"}, [](call& c) { c.o = at<float>(c.o, c.x.q.view().data()); });
  refused(verb::both, "lengths", {"key_lengths", "0", "8", "7"},
          [](call& c) { c.options.mask = heed::key_lengths(beyond); });
  refused(verb::both, "window", {"window", "left", "-2", "-1"}, [](call& c) { c.options.mask = heed::window(-2); });
  refused(verb::both, "softcap", {"softcap", "-1", "0"}, [](call& c) { c.options.softcap = -1; });
  refused(verb::both, "scale", {"scale", "NaN"}, [](call& c) { c.options.scale = NAN; });
  refused(verb::both, "slopes", {"alibi_slopes", "3", "4"}, [](call& c) { c.options.alibi_slopes = three; });
  refused(verb::both, "bias", {"bias", "3", "6", "7"}, [](call& c) {
    c.options.bias = {three.data(), {1, 1, 5, 6}, {0, 0, 7, 1}};
  });
}

TEST_CASE("a vector is one row of at most 1024; a whole tensor without its axes is refused, naming bhsd()") {
  CHECK(wrong_with_vectors(run_local_linear_vectors) == "");
}
