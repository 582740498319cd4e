// SPDX-License-Identifier: BSD-3-Clause

// Gradients and numbers that are none: hidden keys and rows that see nothing have no effect whatever they hold, visible
// ones arrive where the reference has them.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_backward_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr float huge = 1e18f;  // finite, and so are its scores

constexpr shape shapes[] = {
    {1, 2, 1, 37, 53, 20, 12}, {1, 1, 1, 70, 200, 8, 17}, {2, 3, 1, 1, 70, 8, 8}, {1, 2, 4, 20, 40, 9, 8}};

// The keys that no row sees, and the rows that see no key, of each batch entry
struct unseen {
  std::vector<std::vector<bool>> keys, rows;

  explicit unseen(const backward_case<float>& x)
      : keys(static_cast<std::size_t>(x.s.batch), std::vector<bool>(static_cast<std::size_t>(x.s.keys), true)),
        rows(static_cast<std::size_t>(x.s.batch),
             std::vector<bool>(static_cast<std::size_t>(x.s.out_heads() * x.s.queries), true)) {
    heed::reference::softmax::detail::each_row(
        x.q.cview(), x.k.cview(), x.v.cview(), x.options,
        [&](const auto& s, index_t h, index_t i, const auto& scores, const auto&) {
          const auto b = static_cast<std::size_t>(s.batch);
          for (index_t j = 0; j < scores.size(); ++j)
            if (!(scores(j) == -HUGE_VAL)) {
              keys[b][static_cast<std::size_t>(j)] = false;
              rows[b][static_cast<std::size_t>(h * x.s.queries + i)] = false;
            }
        });
  }
  bool key(index_t b, index_t j) const { return keys[static_cast<std::size_t>(b)][static_cast<std::size_t>(j)]; }
  bool row(const shape& s, index_t b, index_t h, index_t i) const {
    return rows[static_cast<std::size_t>(b)][static_cast<std::size_t>(h * s.queries + i)];
  }
};

void fill_row(const buffer<float>& x, index_t b, index_t h, index_t i, float bad) {
  for (index_t d = 0; d < x.size()[3]; ++d) x(b, h, i, d) = bad;
}
template <class F> void each_option(const shape& s, F f) {
  const mask_set set(s);
  for (const auto& [mask_name, mask] : set.masks)
    for (std::size_t place = 0; place < set.alignments.size(); ++place) {
      INFO(to_string(s) << ", " << mask_name << ", " << set.alignments[place].name);
      f(heed::softmax::options<float>{.mask = mask, .align = set.alignments[place].align}, place);
    }
}

}  // namespace

TEST_CASE("gradients: keys that no row sees hold anything, without effect, and have gradients of 0") {
  int with_unseen = 0;
  for (const shape& s : shapes)
    each_option(s, [&](const heed::softmax::options<float>& how, std::size_t place) {
      backward_case<float> clean(s, how);
      clean.forward(), clean.backward();
      const unseen none(clean);
      for (const float bad : {not_a_number, inf, -inf, huge}) {
        if (place > 1 && bad != not_a_number) continue;
        backward_case<float> x(s, how);
        int wrong = 0;
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t j = 0; j < s.keys; ++j) {
            if (!none.key(b, j)) continue;
            ++with_unseen;
            for (index_t h = 0; h < s.kv_heads; ++h) {
              fill_row(x.k, b, h, j, bad), fill_row(x.v, b, h, j, bad);
              for (index_t d = 0; d < s.dim; ++d) wrong += clean.dk(b, h, j, d) != 0;
              for (index_t e = 0; e < s.value_dim; ++e) wrong += clean.dv(b, h, j, e) != 0;
            }
          }
        x.forward(), x.backward();
        CHECK(same_gradients(x, clean));
        CHECK(wrong == 0);
      }
    });
  CHECK(with_unseen > 1000);
}

TEST_CASE("gradients: rows that see nothing hold anything, without effect, and have gradients of 0") {
  int with_unseen = 0;
  for (const shape& s : shapes)
    each_option(s, [&](const heed::softmax::options<float>& how, std::size_t) {
      for (const bool sinks : {false, true}) {
        heed::softmax::options<float> more = how;
        if (sinks) more.sink_logits = 0.5;
        more.alibi_slopes = 0.1;
        backward_case<float> clean(s, more);
        clean.forward(), clean.backward();
        const unseen none(clean);
        backward_case<float> x(s, more);
        int wrong = 0;
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.out_heads(); ++h)
            for (index_t i = 0; i < s.queries; ++i) {
              if (!none.row(s, b, h, i)) continue;
              ++with_unseen;
              fill_row(x.dout, b, h, i, (b + h + i) % 2 == 0 ? not_a_number : inf);
              if (!sinks) x.dlse(b, h, i) = not_a_number;  // a sink has a use for it
              if (s.heads < s.kv_heads) continue;          // else heads that see something share the query
              fill_row(x.q, b, h, i, (b + h + i) % 2 == 0 ? inf : not_a_number);
              for (index_t d = 0; d < s.dim; ++d) wrong += clean.dq(b, h, i, d) != 0;
            }
        x.forward(), x.backward();
        CHECK(same_gradients(x, clean));
        CHECK(wrong == 0);
      }
    });
  CHECK(with_unseen > 1000);
}

TEST_CASE("gradients: a row that sees nothing passes dlse on to its sink") {
  for (const shape& s : {shape{1, 2, 1, 9, 5, 8, 8}, shape{1, 1, 1, 80, 40, 8, 8}}) {
    backward_case<float> x(s, {.mask = heed::causal(), .sink_logits = 0.25});  // rows 0 to N - M - 1
    check(x);
    x.dout.fill(0);
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = s.queries - s.keys; i < s.queries; ++i) x.dlse(0, h, i) = 0;
    x.backward();
    for (index_t h = 0; h < s.heads; ++h) {
      double sum = 0;
      for (index_t i = 0; i < s.queries - s.keys; ++i) sum += static_cast<double>(x.dlse(0, h, i));
      CHECK(static_cast<double>(x.dsinks(0, 0, 0, h)) == Approx(sum).epsilon(1e-5).margin(1e-5));
    }
  }
}

// One number at a time, in k, v, q, dout or dlse. Rows that do not see it, and keys that no such row sees, keep their
// gradients to the tolerance; the others have none where the reference has none.
TEST_CASE("gradients: a bad number reaches what sees it, and nothing else") {
  std::size_t turn = 0;
  for (const shape& s : shapes)
    each_option(s, [&](const heed::softmax::options<float>& how, std::size_t place) {
      if (place > 1) return;
      for (const index_t at : {index_t{0}, s.keys / 2, s.keys - 1})
        for (int kind = 0; kind < 6; ++kind) {
          if (turn++ % thinning != 0) continue;
          backward_case<float> x(s, how);
          const index_t row = at % s.queries;
          INFO("key " << at << ", row " << row << ", kind " << kind);
          if (kind == 0) x.k(0, 0, at, s.dim / 2) = not_a_number;
          if (kind == 1) x.v(0, 0, at, s.value_dim / 2) = not_a_number;
          if (kind == 2) x.q(0, 0, row, s.dim / 2) = not_a_number;
          if (kind == 3) x.dout(0, 0, row, s.value_dim / 2) = not_a_number;
          if (kind == 4) x.dlse(0, 0, row) = not_a_number;
          if (kind == 5) x.v(0, 0, at, s.value_dim / 2) = inf;
          check(x);
        }
    });
}

TEST_CASE("gradients: many bad numbers, in k, v, q or dout") {
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const int one_of : {20, 300})
        for (int kind = 0; kind < 4; ++kind) {
          INFO(mask_name << ", one of " << one_of << ", kind " << kind);
          backward_case<float> x(s, {.mask = mask});
          random_numbers random(7);
          (kind == 0   ? x.k
           : kind == 1 ? x.v
           : kind == 2 ? x.q
                       : x.dout)
              .each([&](float& a) {
                if (random.below(one_of) == 0) a = not_a_number;
              });
          check(x);
        }
  }
}

TEST_CASE("gradients: NaN in the bias of hidden pairs has no effect; -inf hides, and has a gradient of 0") {
  for (const shape& s : shapes) {
    const index_t heads = s.out_heads(), pairs = s.queries * s.keys;
    std::vector<float> bias(static_cast<std::size_t>(heads * pairs), 0.25f), worse(bias), hides(bias);
    const heed::tensor_view<const float, 4> view(bias.data(), {1, heads, s.queries, s.keys}, {0, pairs, s.keys, 1}),
        worse_view(worse.data(), view.extents(), view.strides()),
        hides_view(hides.data(), view.extents(), view.strides());
    const auto hidden = [](index_t i, index_t j) { return (i + 2 * j) % 5 == 0; };
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j)
          if (hidden(i, j)) {
            const auto at = static_cast<std::size_t>((h * s.queries + i) * s.keys + j);
            worse[at] = j % 2 == 0 ? not_a_number : inf, hides[at] = -inf;
          }
    const heed::mask mask = heed::visible_if([](const heed::position& p) { return (p.query + 2 * p.key) % 5 != 0; });
    backward_case<float> clean(s, {.mask = mask, .bias = view}), x(s, {.mask = mask, .bias = worse_view}),
        y(s, {.bias = hides_view});
    check(clean), check(x), check(y);
    CHECK(same_gradients(x, clean));
    int wrong = 0;
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t j = 0; j < s.keys; ++j)
          wrong += hidden(i, j) && (y.dbias(0, h, i, j) != 0 || x.dbias(0, h, i, j) != 0);
    CHECK(wrong == 0);
    // what -inf hides may hold anything
    backward_case<float> z(s, {.bias = {hides.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1}}}), clean_z(s, z.options);
    clean_z.options.lse = clean_z.lse.view3();
    for (index_t h = 0; h < s.kv_heads; ++h)
      for (index_t j = 0; j < s.keys; ++j)
        if (hides[static_cast<std::size_t>(j)] == -inf)
          for (index_t b = 0; b < s.batch; ++b)
            fill_row(z.k, b, h, j, not_a_number), fill_row(z.v, b, h, j, j % 4 == 0 ? inf : not_a_number);
    check(z), check(clean_z);
    CHECK(same_gradients(z, clean_z));
  }
}

TEST_CASE("gradients: -inf of a score function hides, whatever its derivative says there") {
  for (const shape& s : shapes) {
    const auto score = [](float y, const heed::position& p) {
      return p.key % 4 == 1 ? -std::numeric_limits<float>::infinity() : y;
    };
    const auto slope = [](float, const heed::position& p) {
      return p.key % 4 == 1 ? std::numeric_limits<float>::quiet_NaN() : 1.f;
    };
    backward_case<float> x(s, {.score = {score, slope}});
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.kv_heads; ++h)
        for (index_t j = 1; j < s.keys; j += 4) fill_row(x.k, b, h, j, not_a_number), fill_row(x.v, b, h, j, inf);
    check(x);
    bool finite = true;
    for (const buffer<float>* each : {&x.dq, &x.dk, &x.dv})
      each->each([&](float element) { finite = finite && std::isfinite(element); });
    CHECK(finite);
  }
}

TEST_CASE("gradients of large scores of either sign, and of scores far from 0") {
  for (const shape& s : shapes) {
    for (const double scale : {30.0, -30.0, 1e3, 1e6}) {
      INFO(to_string(s) << ", scale " << scale);
      check_backward<float>(s, {.scale = scale});
    }
    for (const float level : {-2e3f, 2e3f}) {
      INFO(to_string(s) << ", level " << level);
      backward_case<float> x(s, {.scale = 1});
      x.q.each([](float& q) { q = 1 + q / 64; });
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < s.kv_heads; ++h)
          for (index_t j = 0; j < s.keys; ++j) x.k(b, h, j, 0) += level;
      check(x);
    }
  }
}

TEST_CASE("gradients of tiny and huge numbers: nothing overflows on the way, and what is subnormal is 0") {
  for (const shape& s : shapes)
    for (const float size : {1e-30f, 1e-15f, 1e15f, 1e30f}) {
      INFO(to_string(s) << ", size " << size);
      backward_case<float> x(s, {.mask = heed::causal()}), y(s, {.mask = heed::causal()});
      x.v.each([&](float& v) { v *= size; });
      x.dlse.fill(0);
      check(x);
      y.dout.each([&](float& v) { v *= size; });
      y.dlse.each([&](float& v) { v *= size; });
      check(y);
    }
}
