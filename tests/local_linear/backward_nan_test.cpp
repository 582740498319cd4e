// SPDX-License-Identifier: BSD-3-Clause

// Gradients of local linear attention and numbers that are none: what is hidden has no effect, what is seen arrives.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/local_linear_backward_case.hpp"
#include "support/softmax_masks.hpp"

using namespace heed_test;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr shape shapes[] = {
    {1, 2, 1, 37, 53, 12, 9}, {1, 1, 1, 40, 100, 8, 8}, {2, 3, 1, 1, 40, 8, 8}, {1, 2, 4, 20, 40, 9, 8}};

void fill_row(const buffer<float>& x, index_t b, index_t h, index_t i, float bad) {
  for (index_t d = 0; d < x.size()[3]; ++d) x(b, h, i, d) = bad;
}
// Which keys no row sees, and which rows see no key
struct unseen {
  std::vector<bool> keys, rows;
  explicit unseen(const local_linear_backward<float>& x)
      : keys(static_cast<std::size_t>(x.s.batch * x.s.keys), true),
        rows(static_cast<std::size_t>(x.s.batch * x.s.out_heads() * x.s.queries), true) {
    const heed::softmax::options<float> how{.mask = x.options.mask, .align = x.options.align};
    heed::reference::softmax::detail::each_row(
        x.q.cview(), x.k.cview(), x.v.cview(), how,
        [&](const auto& s, index_t h, index_t i, const auto& scores, const auto&) {
          for (index_t j = 0; j < scores.size(); ++j)
            if (!(scores(j) == -HUGE_VAL)) {
              keys[static_cast<std::size_t>(s.batch * x.s.keys + j)] = false;
              rows[static_cast<std::size_t>((s.batch * x.s.out_heads() + h) * x.s.queries + i)] = false;
            }
        });
  }
};
template <class F> void each_option(const shape& s, F f) {
  const mask_set set(s);
  for (const auto& [mask_name, mask] : set.masks)
    for (std::size_t place = 0; place < 3; ++place) {
      INFO(to_string(s) << ", " << mask_name << ", " << set.alignments[place].name);
      f(heed::local_linear::options<float>{.mask = mask, .align = set.alignments[place].align}, place);
    }
}

}  // namespace

TEST_CASE("local linear: keys that no row sees, and rows that see no key, have no effect and gradients of 0") {
  int with_unseen = 0;
  for (const shape& s : shapes)
    each_option(s, [&](const heed::local_linear::options<float>& how, std::size_t place) {
      for (const bool anew : {false, true}) {
        if (anew && place > 0) continue;
        local_linear_backward<float> clean(s, 0.5, how);
        if (anew) clean.forget();
        clean.forward(), clean.backward();
        const unseen none(clean);
        for (const float bad : {not_a_number, inf}) {
          local_linear_backward<float> x(s, 0.5, how);
          if (anew) x.forget();
          int wrong = 0;
          for (index_t b = 0; b < s.batch; ++b) {
            for (index_t j = 0; j < s.keys; ++j) {
              if (!none.keys[static_cast<std::size_t>(b * s.keys + j)]) continue;
              ++with_unseen;
              for (index_t h = 0; h < s.kv_heads; ++h) {
                fill_row(x.k, b, h, j, bad), fill_row(x.v, b, h, j, bad);
                for (index_t d = 0; d < s.dim; ++d) wrong += clean.dk(b, h, j, d) != 0;
                for (index_t e = 0; e < s.value_dim; ++e) wrong += clean.dv(b, h, j, e) != 0;
              }
            }
            for (index_t h = 0; h < s.out_heads(); ++h)
              for (index_t i = 0; i < s.queries; ++i) {
                if (!none.rows[static_cast<std::size_t>((b * s.out_heads() + h) * s.queries + i)]) continue;
                ++with_unseen;
                fill_row(x.dout, b, h, i, bad);
                if (s.heads < s.kv_heads) continue;
                fill_row(x.q, b, h, i, bad);
                for (index_t d = 0; d < s.dim; ++d) wrong += clean.dq(b, h, i, d) != 0;
              }
          }
          x.forward(), x.backward();
          CHECK(same_gradients(x, clean));
          CHECK(wrong == 0);
        }
      }
    });
  CHECK(with_unseen > 1000);
}

TEST_CASE("local linear: a bad number reaches the gradients of what sees it, and nothing else") {
  std::size_t turn = 0;
  for (const shape& s : shapes)
    each_option(s, [&](const heed::local_linear::options<float>& how, std::size_t place) {
      if (place > 1) return;
      for (const index_t at : {index_t{0}, s.keys / 2, s.keys - 1})
        for (int kind = 0; kind < 4; ++kind) {
          if (turn++ % (thinning == 1 ? 5 : thinning) != 0) continue;  // the reference is slow
          local_linear_backward<float> x(s, 0.5, how);
          if (turn % 3 == 0) x.forget();
          const index_t row = at % s.queries;
          INFO("key " << at << ", row " << row << ", kind " << kind);
          if (kind == 0) x.k(0, 0, at, s.dim / 2) = not_a_number;
          if (kind == 1) x.v(0, 0, at, s.value_dim / 2) = not_a_number;
          if (kind == 2) x.q(0, 0, row, s.dim / 2) = not_a_number;
          if (kind == 3) x.dout(0, 0, row, s.value_dim / 2) = not_a_number;
          x.forward(), x.backward();
          x.report->max_residual = 0;
          const verdict result = compare(x, expected(x));
          INFO(result.where);
          CHECK(result.worst <= 1);
        }
    });
}
