// SPDX-License-Identifier: BSD-3-Clause

// local_linear::backward under every mask, alignment, packing, option and pair of options; the tolerance; the golden
// gradients.

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_local_linear.hpp"
#include "support/local_linear_backward_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

template <class T> using fit_options = heed::local_linear::options<T>;
template <class T> using parts_of_fit = option_parts<T, fit_options<T>>;
template <class T> using part = typename parts_of_fit<T>::part;

template <class T> heed::score_function<T> curved() {
  return {[](T x, const heed::position& p) {
            return x > -std::numeric_limits<T>::infinity()
                       ? x + static_cast<T>(1 + p.head + p.key % 3) * std::sin(x + static_cast<T>(p.place % 5)) / 8
                       : x;
          },
          [](T x, const heed::position& p) {
            return 1 + static_cast<T>(1 + p.head + p.key % 3) * std::cos(x + static_cast<T>(p.place % 5)) / 8;
          }};
}
template <class T> void check_anew(const shape& s, fit_options<T> how, bool anew) {
  how.tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-6;
  local_linear_backward<T> x(s, 0.5, how);
  if (anew) x.forget();
  check(x);
}

template <class T> void each_pair(const shape& s, std::size_t step) {
  const parts_of_fit<T> parts(s);
  std::size_t turn = 0;
  for (const part<T>& first : parts.all)
    for (const part<T>& second : parts.all) {
      const bool alone = &first == &second;
      if (!alone && (!(first.kind < second.kind) || turn++ % step != 0)) continue;
      INFO(first.name << ", " << second.name);
      fit_options<T> how = parts.of(alone ? std::vector{&first} : std::vector{&first, &second}, parts.whole());
      check_anew<T>(s, how, turn % 2 == 0);
      if (first.kind == part_kind::score || second.kind == part_kind::score || turn % 3 != 0) continue;
      how.score = curved<T>();
      check_anew<T>(s, how, turn % 2 == 1);
    }
}

// solver: how both forward and backward solve
template <class T> void golden(solver how) {
  const golden_file file("local_linear");
  int cases = 0, gradients = 0;
  for (const std::string& name : file.cases()) {
    golden_local_linear<T> x(file, name);
    golden_gradients<T> d(file, name, {"dq", "dk", "dv", "dridge", "dy"});
    if (x.given) continue;  // of apply, which has no backward
    INFO(name << ", " << name_of(how));
    ++cases, gradients += d.count();
    heed::local_linear::report report;
    x.options.solver = how, x.options.report = &report;
    x.options.tolerance /= 8;  // what both solves leave adds up in dridge
    const input<T> q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
    run_forward<T>(q, k, v, x.ridge.data, x.got_o.template view<4>(), x.options, {});
    run_backward<T>({q, k, v, d.dout.template cview<4>()}, x.ridge.data,
                    {.dq = d.template view<4>("dq"),
                     .dk = d.template view<4>("dk"),
                     .dv = d.template view<4>("dv"),
                     .dridge = d.template view<1>("dridge")},
                    x.options, {});
    CHECK(d.wrong() == "");
  }
  CHECK((cases == 20 && gradients == 80));
}

}  // namespace

TEST_CASE("local linear: gradients under every mask and alignment") {
  std::size_t turn = 0;
  for (const shape& s : {shape{2, 2, 1, 37, 53, 12, 9}, shape{1, 1, 3, 33, 65, 8, 8}, shape{2, 3, 1, 2, 40, 12, 8}}) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        if (turn++ % thinning != 0) continue;
        INFO(mask_name << ", " << place_name);
        check_anew<float>(s, {.mask = mask, .align = align}, turn % 3 == 0);
      }
  }
}

TEST_CASE("local linear: gradients in float under every option and pairs of them") {
  for (const shape& s : {shape{2, 4, 2, 25, 60, 12, 9}, shape{1, 2, 4, 40, 50, 8, 8}, shape{2, 2, 1, 2, 60, 9, 7}})
    each_pair<float>(s, 9 * thinning);
}
TEST_CASE("local linear: gradients in double under every option") { each_pair<double>({2, 4, 2, 20, 41, 9, 8}, 40); }

TEST_CASE("local linear: gradients of packed sequences, with the bits of a call for each") {
  packing p;
  p.add(0, 5), p.add(1, 1), p.add(40, 40), p.add(2, 0), p.add(33, 70), p.add(5, 3), p.add(0, 3);
  for (const auto& [heads, kv_heads] : {std::array<index_t, 2>{4, 2}, {1, 1}, {2, 4}}) {
    const shape s{1, heads, kv_heads, p.queries.back(), p.keys.back(), 12, 9};
    const parts_of_fit<float> parts(s, &p);
    for (const part<float>& chosen : parts.all) {
      if (heads != 4 && chosen.name != "causal" && chosen.name != "alibi") continue;
      INFO(to_string(s) << ", " << chosen.name);
      fit_options<float> how = parts.of({&chosen}, parts.whole());
      how.mask = how.mask & heed::packed(p.queries, p.keys), how.tolerance = 1e-6;
      local_linear_backward<float> x(s, 0.5, how), y(s, 0.5, how);
      x.forget(), y.forget();
      check(x);
      for (index_t b = 0; b < p.count(); ++b) {
        const scope one = parts.alone(b);
        fit_options<float> mine = parts.of({&chosen}, one);
        mine.tolerance = 1e-6;
        const auto of_queries = [&](auto view) { return heed::slice(view, 2, one.first_query, one.queries); };
        const auto of_keys = [&](auto view) { return heed::slice(view, 2, one.first_key, one.keys); };
        run_backward<float>(
            {of_queries(y.q.cview()), of_keys(y.k.cview()), of_keys(y.v.cview()), of_queries(y.dout.cview())}, 0.5,
            {.dq = of_queries(y.dq.view()), .dk = of_keys(y.dk.view()), .dv = of_keys(y.dv.view())}, mine, {});
      }
      CHECK((same_bits(x.dq, y.dq) && same_bits(x.dk, y.dk) && same_bits(x.dv, y.dv)));
    }
  }
}

TEST_CASE("local linear: dbias over every broadcast of its axes") {
  const shape s{2, 4, 2, 25, 40, 12, 9};
  std::vector<float> numbers(static_cast<std::size_t>(2 * 4 * 25 * 40));
  random_numbers random(6);
  for (float& x : numbers) x = static_cast<float>(random.normal());
  for (int axes = 0; axes < 16; ++axes) {  // bit a: axis a is broadcast
    INFO("broadcast " << axes);
    extents n{2, 4, 25, 40};
    for (std::size_t a = 0; a < 4; ++a)
      if ((axes >> a & 1) != 0) n[a] = 1;
    check_anew<float>(s,
                      {.mask = heed::causal(), .bias = {numbers.data(), n, {n[1] * n[2] * n[3], n[2] * n[3], n[3], 1}}},
                      axes % 2 == 1);
  }
}

// How far a call with `did` is from the reference with `meant`, in units of the tolerance
template <class T>
static double distance(const fit_options<T>& did, const heed::per_head& ridge, const fit_options<T>& meant,
                       const heed::per_head& meant_ridge) {
  fit_options<T> how = did;
  how.tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-6;
  local_linear_backward<T> x({1, 2, 1, 37, 53, 16, 16}, ridge, how);
  x.forward(), x.backward();
  return compare(x, expected(x, meant_ridge, meant, how.tolerance)).worst;
}
TEST_CASE("local linear: gradients of a slightly different question fail the tolerance") {
  const std::vector<std::int32_t> late{53 - 37 + 1};
  CHECK(distance<float>({.mask = heed::causal()}, 0.5, {.mask = heed::causal()}, 0.5) <= 1);
  CHECK(distance<float>({.mask = heed::causal()}, 0.5, {.mask = heed::causal(), .align = heed::first_place(late)},
                        0.5) > 10);
  CHECK(distance<float>({.mask = heed::window(20)}, 0.5, {.mask = heed::window(21)}, 0.5) > 10);
  CHECK(distance<float>({.scale = 0.25}, 0.5, {.scale = 0.27}, 0.5) > 10);
  CHECK(distance<float>({}, 0.5, {}, 0.55) > 10);
  CHECK(distance<double>({}, 0.5, {}, 0.5) <= 1);
  CHECK(distance<double>({.scale = 0.25}, 0.5, {.scale = 0.2500001}, 0.5) > 10);
  CHECK(distance<double>({.softcap = 3}, 0.5, {.softcap = 3.000001}, 0.5) > 10);
  CHECK(distance<double>({.alibi_slopes = 0.1}, 0.5, {.alibi_slopes = 0.1000001}, 0.5) > 10);
  CHECK(distance<double>({}, 0.5, {}, 0.5000001) > 10);
}

TEST_CASE("golden gradients of local linear attention in float") {
  golden<float>(solver::automatic), golden<float>(solver::direct);
}
TEST_CASE("golden gradients of local linear attention in double") {
  golden<double>(solver::automatic), golden<double>(solver::direct);
}
