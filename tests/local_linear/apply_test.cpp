// SPDX-License-Identifier: BSD-3-Clause

// local_linear::apply: the last pass with slopes of the caller's, beside the reference.

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/reference/local_linear.hpp"
#include "heed/reference/softmax.hpp"

#include "support/catch.hpp"
#include "support/least_squares.hpp"
#include "support/local_linear_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr shape size{2, 4, 2, 21, 45, 8, 5};

template <class T> void check_apply(const shape& s, const heed::local_linear::options<T>& how, layouts in = {}) {
  INFO(to_string(s));
  local_linear_case<T> x(s, 1.0, how, in);
  auto slope = buffer<T>::input({s.batch, s.out_heads(), s.queries, s.dim}, in.q, in.skew);
  random_numbers random(17);
  slope.randomize(random);
  const heed::tensor_view<const T, 4> given = slope.cview();
  const std::vector<fitted_row> rows = fitted(x, x.ridge, x.options, &given);
  x.apply(slope);
  x.options.slope = {};     // no output of apply
  x.options.tolerance = 1;  // nothing is solved: rounding alone, of products in T
  double worst = 0;
  for (const fitted_row& f : rows) {
    const tolerance rounding = tolerance_of<T>(s.keys, s.dim);
    const double product = rounding.eps * rounding.c0 * f.key * static_cast<double>(f.y.norm());
    const double most = (rounding.of_lse(f.size) * f.gain + product) * f.size.max_value;
    verdict row;
    for (index_t e = 0; e < f.o.size(); ++e)
      row.add(static_cast<double>(x.o(f.batch, f.head, f.query, e)), static_cast<double>(f.o(e)), most, "o", 0, 0, 0,
              e);
    row.add(static_cast<double>(x.lse(f.batch, f.head, f.query)), f.lse, rounding.of_lse(f.size), "lse", 0, 0, 0, 0);
    for (index_t c = 0; c < f.mean.size(); ++c)
      row.add(static_cast<double>(x.mean(f.batch, f.head, f.query, c)), static_cast<double>(f.mean(c)),
              rounding.of_lse(f.size) * f.key, "mean_key", 0, 0, 0, c);
    worst = std::max(worst, row.worst);
  }
  CHECK(worst <= 1);
  CHECK(x.slope.untouched());
  CHECK((x.o.canaries_alive() && x.lse.canaries_alive() && x.mean.canaries_alive()));
  CHECK((all_written(x.o) && all_written(x.lse) && all_written(x.mean)));
}

template <class T> void every_mask_and_part() {
  std::size_t turn = 0;
  for (const shape& s : {size, shape{1, 2, 4, 40, 30, 6, 3}, shape{1, 1, 1, 2, 270, 64, 20}}) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments) {
        if (turn++ % thinning != 0) continue;
        INFO(mask_name << ", " << place_name);
        check_apply<T>(s, {.mask = mask, .align = align});
      }
    const option_parts<T, heed::local_linear::options<T>> parts(s);
    for (const auto& part : parts.all) {
      INFO(part.name);
      check_apply<T>(s, parts.of({&part}, parts.whole()));
    }
  }
}

template <class T> void zero_is_softmax() {
  for (const heed::mask& mask : {heed::mask{}, heed::causal()}) {
    local_linear_case<T> x(size, 1.0, {.mask = mask, .align = heed::top_left});
    const auto zero = buffer<T>::input(x.slope.size());
    x.apply(zero);
    const auto expected = buffer<double>::output(x.o.size());
    heed::reference::softmax::forward(x.q.cview(), x.k.cview(), x.v.cview(), expected.view(),
                                      softmax_options(x.options));
    const double allowed = std::is_same_v<T, double> ? 1e-14 : 3e-6;
    double worst = 0;
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 4; ++h)
        for (index_t i = 0; i < 21; ++i)
          for (index_t e = 0; e < 5; ++e)
            worst = std::max(worst, std::abs(static_cast<double>(x.o(b, h, i, e)) - expected(b, h, i, e)));
    CHECK(worst < allowed);
  }
}

template <class T> void of_forward() {
  for (const solver how : solvers) {
    local_linear_case<T> x(size, 0.5, {.mask = heed::causal(), .solver = how}), y(size, 0.5, {.mask = heed::causal()});
    x.forward();
    y.apply(x.slope);
    CHECK(largest_difference(x.o, y.o) < (std::is_same_v<T, double> ? 1e-13 : 2e-5));
    CHECK((same_bits(x.lse, y.lse) && same_bits(x.mean, y.mean)));
  }
}

}  // namespace

TEST_CASE("apply in float: every mask under every alignment, every option") { every_mask_and_part<float>(); }
TEST_CASE("apply in double: every mask under every alignment, every option") { every_mask_and_part<double>(); }
TEST_CASE("apply of 0 is softmax attention") {
  zero_is_softmax<float>();
  zero_is_softmax<double>();
}
TEST_CASE("apply of the slopes of forward gives its o") {
  of_forward<float>();
  of_forward<double>();
}

TEST_CASE("apply: every layout of the slopes") {
  for (const layout in : {layout::bhsd, layout::bshd, layout::packed_slot, layout::reversed_rows, layout::shared_batch,
                          layout::shared_heads})
    check_apply<float>(size, {.mask = heed::causal()}, {in, in, in, layout::bshd, layout::bshd, 3});
}

// o = v-bar (1 + r . k-bar) - sum_j p_j (r . k_j) v_j
TEST_CASE("apply of minus a probe is Parallax") {
  local_linear_case<double> x({1, 1, 1, 9, 30, 6, 4}, 1.0, {.mask = heed::causal()});
  auto probe = buffer<double>::input(x.slope.size()), minus = buffer<double>::input(x.slope.size());
  random_numbers random(5);
  probe.randomize(random);
  for (index_t i = 0; i < 9; ++i)
    for (index_t d = 0; d < 6; ++d) minus(0, 0, i, d) = -probe(0, 0, i, d);
  x.apply(minus);
  namespace reference = heed::reference::local_linear::detail;
  double worst = 0;
  reference::each_row(x.q.cview(), x.k.cview(), x.v.cview(), x.options, [&](const reference::row& row) {
    reference::vector r(6);
    for (index_t d = 0; d < 6; ++d) r(d) = probe(0, 0, row.query, d);
    const reference::vector o =
        row.v.transpose() * row.p * (1 + r.dot(row.mean)) - row.v.transpose() * row.p.cwiseProduct(row.k * r);
    for (index_t e = 0; e < 4; ++e)
      worst = std::max(worst, std::abs(x.o(0, 0, row.query, e) - static_cast<double>(o(e))));
  });
  CHECK(worst < 1e-13);
}

TEST_CASE("apply: a NaN in a slope stays in its row, and does not reach rows that see no key") {
  local_linear_case<float> x({1, 1, 1, 21, 15, 8, 5}, 1.0, {.mask = heed::causal()}),
      clean(x.s, 1.0, {.mask = heed::causal()});
  auto slope = buffer<float>::input(x.slope.size());
  random_numbers random(5);
  slope.randomize(random);
  clean.apply(slope);
  for (const index_t i : {2, 9}) slope(0, 0, i, 3) = NAN;  // places -4 and 3
  x.apply(slope);
  for (index_t i = 0; i < 21; ++i)
    for (index_t e = 0; e < 5; ++e) {
      INFO(i);
      if (i == 9)
        CHECK(std::isnan(x.o(0, 0, i, e)));
      else
        CHECK(x.o(0, 0, i, e) == clean.o(0, 0, i, e));
    }
}
