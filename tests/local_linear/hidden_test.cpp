// SPDX-License-Identifier: BSD-3-Clause

// What is hidden has no effect whatever it holds, behind every kind of mask and behind -inf of a bias or a score
// function; what is visible arrives, in the rows that see it and no others. Every solver.

#include <cmath>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "support/catch.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
using options = heed::local_linear::options<float>;
using run = local_linear_case<float>;

// Keys over several tiles and a group; keys in one tile, few of them beside the head dim
constexpr shape shapes[] = {{1, 2, 1, 20, 300, 8, 5}, {1, 1, 1, 70, 40, 8, 5}, {1, 1, 1, 9, 12, 64, 5}};

// Whether row (head, query) sees a key
class pairs_seen {
 public:
  explicit pairs_seen(const run& x) : s_(x.s), sees_(static_cast<std::size_t>(s_.out_heads() * s_.queries * s_.keys)) {
    // values that say which key they belong to
    auto numbers = buffer<float>::input({1, s_.kv_heads, s_.keys, 1});
    for (index_t h = 0; h < s_.kv_heads; ++h)
      for (index_t j = 0; j < s_.keys; ++j) numbers(0, h, j) = static_cast<float>(j);
    namespace reference = heed::reference::local_linear::detail;
    reference::each_row(x.q.cview(), x.k.cview(), numbers.cview(), x.options, [&](const reference::row& row) {
      for (index_t j = 0; j < row.v.rows(); ++j)
        sees_[at(row.head, row.query, static_cast<index_t>(row.v(j, 0)))] = true;
    });
  }
  bool operator()(index_t h, index_t i, index_t j) const { return sees_[at(h, i, j)]; }

  std::vector<index_t> hidden_from_all() const {
    std::vector<index_t> keys;
    for (index_t j = 0; j < s_.keys; ++j) {
      bool seen = false;
      for (index_t h = 0; h < s_.out_heads(); ++h)
        for (index_t i = 0; i < s_.queries; ++i) seen = seen || (*this)(h, i, j);
      if (!seen) keys.push_back(j);
    }
    return keys;
  }

 private:
  std::size_t at(index_t h, index_t i, index_t j) const {
    return static_cast<std::size_t>((h * s_.queries + i) * s_.keys + j);
  }
  shape s_;
  std::vector<bool> sees_;
};

struct named {
  std::string name;
  options how;
};

// Everything that can hide a key, alone and together
class hiders {
 public:
  explicit hiders(const shape& s) : parts_(s) {
    const auto n = static_cast<std::int32_t>(s.queries), m = static_cast<std::int32_t>(s.keys);
    query_offsets_ = {0, n / 2, n, n}, key_offsets_ = {0, m / 2, m - 3, m - 1};
    for (const auto& part : parts_.all)
      if (part.masks() || part.name.find("hides") != std::string::npos)
        all.push_back({part.name, parts_.of({&part}, parts_.whole())});
    all.push_back({"causal, top_left", {.mask = heed::causal(), .align = heed::top_left}});
    all.push_back({"packed and causal", {.mask = heed::packed(query_offsets_, key_offsets_) & heed::causal()}});
    all.push_back({"window with a gap", {.mask = heed::window(7, 0, 1)}});
    bias_.assign(static_cast<std::size_t>(s.keys), 0);
    for (std::size_t j = 0; j < bias_.size(); j += 5) bias_[j] = static_cast<float>(-inf);
    all.push_back({"bias per key", {.bias = {bias_.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1}}}});
  }
  hiders(const hiders&) = delete;
  hiders& operator=(const hiders&) = delete;

  std::vector<named> all;

 private:
  option_parts<float, options> parts_;
  std::vector<std::int32_t> query_offsets_, key_offsets_;
  std::vector<float> bias_;
};

void poison_row(const buffer<float>& x, index_t j, double bad) {
  for (index_t h = 0; h < x.size()[1]; ++h)
    for (index_t d = 0; d < x.size()[3]; ++d) x(0, h, j, d) = static_cast<float>(bad);
}
bool all_bits(const run& a, const run& b) {
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse) && same_bits(a.slope, b.slope) && same_bits(a.mean, b.mean);
}
template <class F> bool every(const buffer<float>& x, index_t h, index_t i, const F& f) {
  bool all = true;
  for (index_t d = 0; d < x.size()[3]; ++d) all = all && f(x(0, h, i, d));
  return all;
}
bool is_nan(float x) { return std::isnan(x); }
bool same_row(const run& a, const run& b, index_t h, index_t i) {
  bool same = a.lse(0, h, i) == b.lse(0, h, i);
  for (index_t e = 0; e < a.s.value_dim; ++e) same = same && a.o(0, h, i, e) == b.o(0, h, i, e);
  for (index_t d = 0; d < a.s.dim; ++d)
    same = same && a.slope(0, h, i, d) == b.slope(0, h, i, d) && a.mean(0, h, i, d) == b.mean(0, h, i, d);
  return same;
}

// Rows of the reference without those that see the key
std::vector<fitted_row> others(const std::vector<fitted_row>& rows, const pairs_seen& sees, index_t key) {
  std::vector<fitted_row> rest;
  for (const fitted_row& f : rows)
    if (!sees(f.head, f.query, key)) rest.push_back(f);
  return rest;
}

}  // namespace

TEST_CASE("keys that no row sees: the same bits whatever they hold") {
  std::size_t turn = 0;
  int with_hidden = 0;
  for (const shape& s : shapes) {
    const hiders set(s);
    for (const auto& [name, how] : set.all)
      for (const solver with : solvers) {
        run clean(s, 0.5, how);
        clean.options.solver = with;
        const std::vector<index_t> hidden = pairs_seen(clean).hidden_from_all();
        if (hidden.empty() || turn++ % thinning != 0) continue;
        ++with_hidden;
        clean.forward();
        for (const double bad : {nan_value, inf, -inf, 1e18}) {
          INFO(to_string(s) << ", " << name << ", " << name_of(with) << ", " << bad);
          run x(s, 0.5, how);
          x.options.solver = with;
          for (const index_t j : hidden) poison_row(x.k, j, bad), poison_row(x.v, j, bad);
          x.forward();
          CHECK(all_bits(x, clean));
          CHECK(x.report->max_residual == clean.report->max_residual);
        }
      }
  }
  CHECK(with_hidden > (thinning == 1 ? 20 : 3));
}

TEST_CASE("a NaN or infinity in a key or value: the rows that see it, and no others") {
  std::size_t turn = 0;
  for (const shape& s : shapes) {
    const hiders set(s);
    for (const auto& [name, how] : set.all) {
      const run clean(s, 0.5, how);
      const pairs_seen sees(clean);
      const std::vector<fitted_row> rows = fitted(clean, clean.ridge, clean.options);
      for (const index_t key : {index_t{0}, s.keys / 2, s.keys - 2})
        for (const bool value : {false, true}) {
          if (turn++ % thinning != 0) continue;
          const double bad = !value || turn % 2 == 0 ? nan_value : inf;
          run x(s, 0.5, how);
          x.options.solver = solvers[turn % std::size(solvers)];
          INFO(to_string(s) << ", " << name << ", " << name_of(x.options.solver) << ", " << (value ? "v" : "k")
                            << " of " << key << ", " << bad);
          run whole(s, 0.5, how);
          whole.options.solver = x.options.solver;
          whole.forward();
          poison_row(value ? x.v : x.k, key, bad);
          x.forward();
          const verdict result = compare(x, others(rows, sees, key));
          INFO(result.where);
          CHECK(result.worst <= 1);
          int wrong = 0;
          for (index_t h = 0; h < s.out_heads(); ++h)
            for (index_t i = 0; i < s.queries; ++i) {
              if (!sees(h, i, key)) {
                wrong += !same_row(x, whole, h, i);
                continue;
              }
              wrong += !every(x.o, h, i, [](float o) { return !std::isfinite(o); });
              const bool fits = every(x.mean, h, i, is_nan) && every(x.slope, h, i, is_nan) && is_nan(x.lse(0, h, i));
              wrong += value == fits;
            }
          CHECK(wrong == 0);
        }
    }
  }
}

// Scores may be finite where keys are not; means of keys are not.
TEST_CASE("a NaN or infinity in a key whose score is finite: the rows that see it, and no others") {
  const shape s{1, 1, 1, 70, 90, 8, 5};
  for (const solver with : solvers)
    for (const bool capped : {true, false}) {
      INFO(name_of(with) << (capped ? ", infinity under a soft-cap" : ", NaN and scores that ignore keys"));
      options how{.mask = heed::causal(), .solver = with};
      if (capped)
        how.softcap = 5;
      else
        how.score = [](float, const heed::position& at) { return 0.125f * static_cast<float>(at.key % 5); };
      run clean(s, 0.5, how), x(s, 0.5, how);
      for (run* each : {&clean, &x})
        for (index_t i = 0; i < s.queries; ++i) each->q(0, 0, i, 1) = 1;
      x.k(0, 0, 60, 1) = static_cast<float>(capped ? inf : nan_value);
      clean.forward(), x.forward();
      const auto finite = [](float a) { return std::isfinite(a); };
      int wrong = 0;
      for (index_t i = 0; i < s.queries; ++i) {
        const bool sees = i + 20 >= 60;
        wrong += sees ? every(x.o, 0, i, finite) || finite(x.mean(0, 0, i, 1)) || !every(x.slope, 0, i, is_nan)
                      : !same_row(x, clean, 0, i);
      }
      CHECK(wrong == 0);
      CHECK(x.report->unconverged == 0);
    }
}

TEST_CASE("a finite change of a key: the rows that see it, and no others") {
  // A large key is where lanes of a tile lose most to rounding; the last of 64 rows of one tile is the one to see it.
  const shape s{1, 1, 1, 64, 200, 32, 8};
  for (const solver with : solvers)
    for (const double ridge : {1.0, 0.1, 1e-2, 1e-4}) {
      int changed = 0, last = 0;
      for (std::uint32_t seed = 1; seed <= (thinning == 1 ? 24 : 6); ++seed) {
        const options how{.mask = heed::causal(), .solver = with};
        run x(s, ridge, how, {}, seed), y(s, ridge, how, {}, seed);
        for (index_t d = 0; d < s.dim; ++d) y.k(0, 0, s.keys - 1, d) *= 100;
        x.forward(), y.forward();
        for (index_t i = 0; i < s.queries - 1; ++i) changed += !same_row(x, y, 0, i);
        last += !same_row(x, y, 0, s.queries - 1);
      }
      INFO(name_of(with) << ", ridge " << ridge);
      CHECK(changed == 0);
      CHECK(last > 0);
    }
}

TEST_CASE("an infinite value that a row sees stays infinite when another row becomes NaN") {
  for (const solver how : solvers) {
    INFO(name_of(how));
    run x({1, 1, 1, 20, 20, 8, 5}, 0.5, {.mask = heed::causal(), .solver = how}),
        clean({1, 1, 1, 20, 20, 8, 5}, 0.5, {.mask = heed::causal(), .solver = how});
    for (run* y : {&x, &clean}) y->v(0, 0, 3, 1) = inf;
    x.q(0, 0, 9, 0) = nan_value, x.k(0, 0, 15, 2) = nan_value;
    x.forward(), clean.forward();
    for (index_t i = 0; i < 15; ++i)
      if (i != 9) CHECK(same_row(x, clean, 0, i));
    CHECK(std::isinf(clean.o(0, 0, 14, 1)));
  }
}

TEST_CASE("a NaN in a query: its row") {
  for (const solver with : solvers) {
    const shape s{1, 1, 1, 70, 90, 8, 5};
    run clean(s, 0.5, {.mask = heed::causal(), .solver = with}), x(s, 0.5, {.mask = heed::causal(), .solver = with});
    clean.forward();
    x.q(0, 0, 33, 2) = NAN;
    x.forward();
    for (index_t i = 0; i < 70; ++i) {
      CHECK(every(x.o, 0, i, is_nan) == (i == 33));
      CHECK(is_nan(x.lse(0, 0, i)) == (i == 33));
      CHECK(every(x.slope, 0, i, is_nan) == (i == 33));
      CHECK(every(x.mean, 0, i, is_nan) == (i == 33));
    }
    std::vector<fitted_row> rows = fitted(clean, clean.ridge, clean.options);
    rows.erase(rows.begin() + 33);
    CHECK(compare(x, rows).worst <= 1);
  }
}

TEST_CASE("rows that see no key: 0, -inf, and no slope") {
  for (const solver with : solvers) {
    run x({1, 2, 1, 70, 40, 8, 5}, 0.5, {.mask = heed::causal(), .solver = with});  // places -30 .. 39
    poison_row(x.v, 39, nan_value);
    x.forward();
    const auto zero = [](float e) { return e == 0; };
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 30; ++i) {
        CHECK((every(x.o, h, i, zero) && every(x.slope, h, i, zero) && every(x.mean, h, i, zero)));
        CHECK(static_cast<double>(x.lse(0, h, i)) == -inf);
      }
    run none({1, 2, 1, 20, 0, 8, 5}, 0.5, {.solver = with});
    none.forward();
    CHECK((every(none.o, 1, 19, zero) && every(none.slope, 1, 19, zero) && every(none.mean, 1, 19, zero)));
  }
}
