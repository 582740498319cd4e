// SPDX-License-Identifier: BSD-3-Clause

// Beside softmax::forward: the same bits where all gates are 1, and gate times its rows to rounding elsewhere, under
// every option and mask.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/mixture_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

// Tiles with and without a group, a group that fills more than a tile, few rows with and without a group.
constexpr shape shapes[] = {{2, 4, 2, 90, 300, 12, 9},  {1, 3, 3, 150, 130, 20, 16}, {1, 130, 1, 2, 40, 8, 8},
                            {2, 4, 2, 3, 200, 12, 9},   {1, 2, 2, 1, 300, 8, 20},    {1, 5, 1, 2, 50, 8, 8},
                            {1, 1, 1, 700, 600, 16, 16}};

template <class T> void same_as_softmax(const shape& s, const heed::softmax::options<T>& how) {
  mixture_case<T> x(s, gating::all_ones, how);
  softmax_case<T> y(s, how);
  x.mix();
  y.forward();
  CHECK((same_bits(x.o, y.o) && same_bits(x.lse, y.lse)));
}

}  // namespace

TEST_CASE("all gates 1, float: the bits of softmax under every option and mask") {
  std::size_t turn = 0;
  for (const shape& s : shapes) {
    const option_parts<float> parts(s);
    same_as_softmax<float>(s, {});
    for (const auto& part : parts.all) {
      if (turn++ % thinning != 0) continue;
      INFO(to_string(s) << ", " << part.name);
      same_as_softmax<float>(s, parts.of({&part}, parts.whole()));
    }
  }
}

TEST_CASE("all gates 1, double: the bits of softmax under every option and mask") {
  std::size_t turn = 0;
  for (const shape& s : {shapes[0], shapes[3]}) {
    const option_parts<double> parts(s);
    same_as_softmax<double>(s, {});
    for (const auto& part : parts.all) {
      if (turn++ % thinning != 0) continue;
      INFO(to_string(s) << ", " << part.name);
      same_as_softmax<double>(s, parts.of({&part}, parts.whole()));
    }
  }
}

// Which rows share a tile changes the sums by rounding only, whatever the options are.
TEST_CASE("gate times softmax, double: every option and mask, alone and three at a time") {
  std::size_t turn = 0;
  for (const shape& s : {shape{2, 4, 2, 70, 90, 12, 9}, shape{1, 3, 3, 100, 300, 8, 8}, shape{2, 4, 1, 5, 80, 12, 9}}) {
    const option_parts<double> parts(s);
    const auto compare = [&](const heed::softmax::options<double>& how) {
      for (const gating pattern : {gating::random, gating::few, gating::clustered}) {
        mixture_case<double> x(s, pattern, how);
        softmax_case<double> y(s, how);
        x.mix();
        y.forward();
        double worst = 0;
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.heads; ++h)
            for (index_t i = 0; i < s.queries; ++i) {
              const double gate = x.gates(b, h, i), lse = gate == 0 ? -HUGE_VAL : y.lse(b, h, i);
              if (x.lse(b, h, i) != lse) worst = std::max(worst, std::abs(x.lse(b, h, i) - lse));
              for (index_t e = 0; e < s.value_dim; ++e)
                worst = std::max(worst, std::abs(x.o(b, h, i, e) - gate * y.o(b, h, i, e)));
            }
        INFO(name_of(pattern));
        CHECK(worst <= 1e-12);
        CHECK((x.o.canaries_alive() && x.lse.canaries_alive()));
      }
    };
    for (std::size_t i = 0; i < parts.all.size(); ++i) {
      const auto *a = &parts.all[i], *b = &parts.all[(i * 5 + 3) % parts.all.size()],
                 *c = &parts.all[(i * 7 + 11) % parts.all.size()];
      if (turn++ % thinning != 0) continue;
      INFO(to_string(s) << ", " << a->name);
      compare(parts.of({a}, parts.whole()));
      if (a->kind == b->kind || b->kind == c->kind || a->kind == c->kind) continue;
      INFO(b->name << ", " << c->name);
      compare(parts.of({a, b, c}, parts.whole()));
    }
  }
}

TEST_CASE("float under options: beside the reference") {
  const shape s{2, 4, 2, 70, 90, 12, 9};
  const option_parts<float> parts(s);
  for (std::size_t i = 0; i < parts.all.size(); i += thinning) {
    INFO(parts.all[i].name);
    mixture_case<float> x(s, gatings[i % std::size(gatings)], parts.of({&parts.all[i]}, parts.whole()));
    check_mixture(x);
  }
}

// An option that moves softmax moves this as well.
TEST_CASE("each option and mask moves the output") {
  const shape s{1, 4, 2, 70, 90, 12, 9};
  const option_parts<float> parts(s);
  mixture_case<float> plain(s), causal(s, gating::random, {.mask = heed::causal()});
  plain.mix();
  causal.mix();
  for (const auto& part : parts.all) {
    INFO(part.name);
    const bool place = part.kind == part_kind::align;  // seen under a mask that asks for places
    heed::softmax::options<float> how = parts.of({&part}, parts.whole());
    if (place) how.mask = heed::causal();
    mixture_case<float> x(s, gating::random, how);
    x.mix();
    CHECK_FALSE(same_bits(x.o, place ? causal.o : plain.o));
  }
}
