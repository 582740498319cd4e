// SPDX-License-Identifier: BSD-3-Clause

// The matrix units for bf16: against double, the emulation of AMX against its formula, AMX against the emulation (on a
// machine without AMX, its compiled instructions are trapped and carried out).

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "heed/tile/unit_choice.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#if defined(HEED_AVX512) && defined(__linux__)
#include "support/amx_trap.hpp"
#endif

namespace {

using heed::bf16_t;
using heed::index_t;
namespace tile = heed::tile;
namespace simd = heed::simd;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }
float number(std::uint32_t x) { return std::bit_cast<float>(x); }
float pair_of(bf16_t low, bf16_t high) { return number(low.bits | std::uint32_t{high.bits} << 16); }

constexpr float canary = -1234.5f;

// One product with canaries around C, and A at an odd bf16_t with an odd stride
struct product_case {
  index_t rows, pairs, lanes, a_row, b_row, c_row;
  std::vector<bf16_t> a;
  std::vector<float> b, c, factor, row_max;
  tile::pair_product p;

  product_case(index_t m, index_t j, index_t l, tile::accumulate how, std::uint32_t seed)
      : rows(m), pairs(j), lanes(l), a_row(2 * j + 3), b_row(l + 5), c_row(l + 7) {
    heed_test::random_numbers random(seed);
    a.resize(at(1 + rows * a_row));
    for (bf16_t& x : a) x = bf16_t(static_cast<float>(random.normal()));
    b.resize(at(pairs * b_row + 1));
    for (float& x : b)
      x = pair_of(bf16_t(static_cast<float>(random.normal())), bf16_t(static_cast<float>(random.normal())));
    c.assign(at((rows + 2) * c_row), canary);
    for (index_t i = 0; i < rows * lanes; ++i)
      start(i / lanes, i % lanes) =
          how == tile::accumulate::zero ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(random.normal());
    factor.resize(at(lanes)), row_max.resize(at(lanes));
    for (float& x : factor) x = static_cast<float>(random.normal());
    for (float& x : row_max) x = static_cast<float>(random.normal());
    p.accumulate = how;
  }
  float& start(index_t m, index_t l) { return c[at((m + 1) * c_row + 3 + l)]; }
  bf16_t& a_of(index_t m, index_t k) { return a[at(1 + m * a_row + k)]; }
  bf16_t b_of(index_t k, index_t l) const {
    return bf16_t::from_bits(static_cast<std::uint16_t>(bits(b[at(k / 2 * b_row + l)]) >> (k % 2 * 16)));
  }
  void set_b(index_t k, index_t l, bf16_t x) {
    float& word = b[at(k / 2 * b_row + l)];
    word = k % 2 == 0 ? pair_of(x, b_of(k + 1, l)) : pair_of(b_of(k - 1, l), x);
  }
  void run(const tile::matrix_unit& unit, tile::background& work) {
    p.a = a.data() + 1, p.a_row = a_row, p.b = b.data(), p.b_row = b_row;
    p.c = &start(0, 0), p.c_row = c_row, p.rows = rows, p.pairs = pairs;
    p.factor = factor.data();
    unit.begin();
    unit.multiply(p, lanes, work);
    unit.end();
  }
  void run(const tile::matrix_unit& unit) {
    tile::background none;
    run(unit, none);
  }
};

// The units that run here
std::vector<const tile::matrix_unit*> units() {
  std::vector<const tile::matrix_unit*> all{&tile::emulated_amx_unit};
#if defined(HEED_AVX512)
  const simd::cpu_features cpu = simd::detect_cpu();
  if (cpu.bf16_dots) all.push_back(&tile::dot_unit);
#if defined(__linux__)
  if (cpu.amx && simd::request_amx()) all.push_back(&tile::amx_unit);
#endif
#endif
  return all;
}

constexpr tile::accumulate kinds[] = {tile::accumulate::zero, tile::accumulate::keep, tile::accumulate::scale};

// Largest error of a product in units of its bound: depth + 3 float sums, each of relative error epsilon
double error_of(const tile::matrix_unit& unit, index_t rows, index_t pairs, index_t lanes, tile::accumulate how) {
  product_case x(rows, pairs, lanes, how, static_cast<std::uint32_t>(rows + 100 * pairs + 10000 * lanes));
  product_case before = x;
  x.p.row_max = x.row_max.data();
  x.run(unit);
  double worst = 0;
  std::vector<float> most = before.row_max;
  for (index_t m = -1; m <= rows; ++m)
    for (index_t l = -3; l < lanes + 4; ++l) {
      const float got = x.start(m, l);
      if (m < 0 || m >= rows || l < 0 || l >= lanes) {
        if (bits(got) != bits(canary)) return std::numeric_limits<double>::infinity();
        continue;
      }
      double want = 0;
      if (how != tile::accumulate::zero) want = static_cast<double>(before.start(m, l));
      if (how == tile::accumulate::scale) want *= static_cast<double>(x.factor[at(l)]);
      double size = std::fabs(want);
      for (index_t k = 0; k < 2 * pairs; ++k) {
        const double term = static_cast<double>(float{x.a_of(m, k)}) * static_cast<double>(float{x.b_of(k, l)});
        want += term, size += std::fabs(term);
      }
      const double bound = size * static_cast<double>(2 * pairs + 3) * 0x1p-24;
      const double error = std::fabs(static_cast<double>(got) - want);
      worst = std::fmax(worst, error <= bound ? (bound > 0 ? error / bound : 0) : 2 + error);
      most[at(l)] = std::fmax(most[at(l)], got);
    }
  for (index_t l = 0; l < lanes; ++l)
    if (bits(most[at(l)]) != bits(x.row_max[at(l)])) return std::numeric_limits<double>::infinity();
  return worst;
}

TEST_CASE("matrix units: every shape against double") {
  for (const tile::matrix_unit* unit : units()) {
    INFO(unit->name);
    CHECK(unit->stage_lanes % unit->lane_multiple == 0);
    for (index_t rows = 0; rows <= 5; ++rows)
      for (index_t pairs = 0; pairs <= 3; ++pairs)
        for (index_t lanes = 1; lanes <= 5; ++lanes)
          for (const tile::accumulate how : kinds) {
            const index_t m = rows * unit->row_multiple, j = pairs * unit->pair_multiple;
            const index_t l = lanes * unit->lane_multiple;
            INFO(m << " rows, " << j << " pairs, " << l << " lanes, " << static_cast<int>(how));
            CHECK(error_of(*unit, m, j, l, how) <= 1);
          }
  }
}

TEST_CASE("matrix units: all row tails of the register blocks") {
  for (const tile::matrix_unit* unit : units())
    for (index_t rows = 1; rows <= 29; ++rows)
      for (index_t lanes = 1; lanes <= 4; ++lanes) {
        if (unit->row_multiple > 1) continue;
        INFO(unit->name << ": " << rows << " rows, " << lanes << " vectors");
        CHECK(error_of(*unit, rows, 33, lanes * unit->lane_multiple, kinds[rows % 3]) <= 1);
      }
}

// What the hardware does for one element, told apart from the emulation: fpclassify for its flushes, pairs one by one
float zero_if_subnormal(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
void formula_dot(std::uint32_t (*c)[16], const std::uint32_t (*a)[16], const std::uint32_t (*b)[16]) {
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      float chain[2] = {0, 0};
      for (int k = 0; k < 32; ++k) {
        const int shift = k % 2 * 16;
        const float x = zero_if_subnormal(number(a[m][k / 2] >> shift << 16));
        const float y = zero_if_subnormal(number(b[k / 2][n] >> shift << 16));
        chain[k % 2] = zero_if_subnormal(std::fma(x, y, chain[k % 2]));
      }
      const volatile float sum = zero_if_subnormal(chain[0] + chain[1]);
      c[m][n] = bits(zero_if_subnormal(zero_if_subnormal(number(c[m][n])) + sum));
    }
}

// x by tiles of 16, one after another, with formula_dot
void run_formula(product_case& x) {
  for (index_t m = 0; m < x.rows; m += 16)
    for (index_t l = 0; l < x.lanes; l += 16) {
      std::uint32_t c[16][16] = {}, a[16][16], b[16][16];
      for (index_t i = 0; i < 256; ++i) {
        const float old = x.start(m + i / 16, l + i % 16);
        if (x.p.accumulate == tile::accumulate::keep) c[i / 16][i % 16] = bits(old);
        if (x.p.accumulate == tile::accumulate::scale) c[i / 16][i % 16] = bits(old * x.factor[at(l + i % 16)]);
      }
      for (index_t j = 0; j < x.pairs; j += 16) {
        for (index_t i = 0; i < 256; ++i) {
          a[i / 16][i % 16] =
              bits(pair_of(x.a_of(m + i / 16, 2 * (j + i % 16)), x.a_of(m + i / 16, 2 * (j + i % 16) + 1)));
          b[i / 16][i % 16] = bits(x.b[at((j + i / 16) * x.b_row + l + i % 16)]);
        }
        formula_dot(c, a, b);
      }
      for (index_t i = 0; i < 256; ++i) x.start(m + i / 16, l + i % 16) = number(c[i / 16][i % 16]);
    }
}

// Numbers of all sizes: many products, sums and starts are subnormal, some overflow.
void spread(product_case& x) {
  heed_test::random_numbers random(7);
  const auto wide = [&](double range) {
    return static_cast<float>(std::ldexp(random.normal(), static_cast<int>((random.uniform() - 0.5) * range)));
  };
  for (bf16_t& v : x.a) v = bf16_t(wide(140));
  for (float& v : x.b) v = pair_of(bf16_t(wide(140)), bf16_t(wide(260)));
  for (index_t i = 0; i < x.rows * x.lanes; ++i) x.start(i / x.lanes, i % x.lanes) = wide(270);
}
void shrink(product_case& x) {  // sums around the smallest normal number
  for (bf16_t& v : x.a) v = bf16_t(float{v} * 0x1p-64f);
  for (float& v : x.b) {
    const float low = number(bits(v) << 16) * 0x1p-63f, high = number(bits(v) & 0xffff0000u) * 0x1p-63f;
    v = pair_of(bf16_t(low), bf16_t(high));
  }
  for (index_t i = 0; i < x.rows * x.lanes; ++i) x.start(i / x.lanes, i % x.lanes) *= 0x1p-126f;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

template <class F> void each_tile_case(F f) {
  for (const auto& [rows, lanes] : {std::pair<index_t, index_t>{16, 16}, {32, 32}, {48, 80}, {80, 16}})
    for (const index_t pairs : {16, 48, 64})
      for (const tile::accumulate how : kinds)
        for (int numbers = 0; numbers < 3; ++numbers) {
          product_case x(rows, pairs, lanes, how, static_cast<std::uint32_t>(rows + pairs));
          if (numbers == 1) spread(x);
          if (numbers == 2) shrink(x);
          INFO(rows << " rows, " << pairs << " pairs, " << lanes << " lanes, start " << static_cast<int>(how)
                    << ", numbers " << numbers);
          f(x);
        }
}

TEST_CASE("the emulation of AMX is its formula, bit by bit") {
  each_tile_case([](product_case& x) {
    product_case want = x;
    run_formula(want);
    x.run(tile::emulated_amx_unit);
    CHECK(same_bits(x.c, want.c));
  });
}

TEST_CASE("AMX is its emulation, bit by bit") {
#if defined(HEED_AVX512) && defined(__linux__)
  const bool hardware = simd::detect_cpu().amx && simd::request_amx();
  if (!hardware) WARN("SKIPPED on hardware: no AMX here; its instructions are trapped and carried out in memory");
  each_tile_case([&](product_case& x) {
    product_case want = x;
    x.p.row_max = x.row_max.data(), want.p.row_max = want.row_max.data();
    want.run(tile::emulated_amx_unit);
    if (hardware) {
      x.run(tile::amx_unit);
    } else {
      heed_test::trapped_tiles tiles;
      tiles.dot = formula_dot;
      {
        const heed_test::amx_trap trap(tiles);
        x.run(tile::amx_unit);
      }
      CHECK(std::string(tiles.problem == nullptr ? "" : tiles.problem).empty());
      const long blocks = (x.rows / 16) * (x.lanes / 16), steps = x.pairs / 16;
      CHECK(tiles.configures == 1);
      CHECK(tiles.releases == 1);
      CHECK(tiles.dots == blocks * steps);
      CHECK(tiles.stores == blocks);
      CHECK(tiles.zeros == (x.p.accumulate == tile::accumulate::zero ? blocks : 0));
      if (x.rows == 32 && x.lanes == 32) CHECK(tiles.loads + tiles.zeros == 4 * steps + 4);
    }
    CHECK(same_bits(x.c, want.c));
    CHECK(same_bits(x.row_max, want.row_max));
  });
#else
  WARN("SKIPPED: AMX is for builds with AVX-512, on Linux");
#endif
}

struct counter {
  index_t calls = 0;
  static void piece(void* state) { ++static_cast<counter*>(state)->calls; }
};

TEST_CASE("matrix units: a piece of the background after every two tile products") {
  for (const tile::matrix_unit* unit : units()) {
    const auto pieces = [&](index_t rows, index_t lanes, index_t pairs, index_t have) {
      product_case x(rows, pairs, lanes, tile::accumulate::zero, 3);
      counter count;
      tile::background work{counter::piece, &count, have};
      x.run(*unit, work);
      CHECK(count.calls + work.left == have);
      const index_t calls = count.calls;
      work.finish();
      CHECK(count.calls == have);
      return calls;
    };
    INFO(unit->name);
    if (!unit->interleaves) {
      CHECK(pieces(32, 32, 32, 5) == 0);
      continue;
    }
    CHECK(pieces(32, 32, 32, 1000) == 4);
    CHECK(pieces(32, 32, 32, 3) == 3);
    CHECK(pieces(16, 32, 32, 1000) == 2);
    CHECK(pieces(32, 16, 32, 1000) == 2);
    CHECK(pieces(16, 16, 64, 1000) == 2);
    CHECK(pieces(16, 16, 48, 1000) == 1);
    CHECK(pieces(64, 64, 64, 1000) == 32);
  }
}

TEST_CASE("matrix units: NaN and infinity reach their row and lane and no other") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const tile::matrix_unit* unit : units()) {
    INFO(unit->name);
    product_case x(32, 32, 48, tile::accumulate::keep, 5);
    x.a_of(3, 7) = bf16_t(nan);
    x.a_of(5, 8) = bf16_t(inf), x.set_b(8, 20, bf16_t(0.0f)), x.set_b(8, 21, bf16_t(-2.0f));
    x.set_b(9, 33, bf16_t(-inf));
    x.start(30, 40) = nan, x.start(31, 41) = inf;
    x.run(*unit);
    for (index_t m = 0; m < 32; ++m)
      for (index_t l = 0; l < 48; ++l) {
        INFO("row " << m << ", lane " << l);
        const float got = x.start(m, l);
        if (m == 3 || (m == 5 && l == 20) || (m == 30 && l == 40))
          CHECK(std::isnan(got));
        else if (m == 5 || l == 33 || (m == 31 && l == 41))
          CHECK(!std::isfinite(got));
        else
          CHECK(std::isfinite(got));
      }
    CHECK(bits(x.start(5, 21)) == bits(-inf));
    CHECK(bits(x.start(31, 41)) == bits(inf));
  }
}

TEST_CASE("matrix units: subnormal inputs and results count as zero") {
  for (const tile::matrix_unit* unit : units()) {
    INFO(unit->name);
    product_case x(16, 16, 32, tile::accumulate::zero, 6);
    for (bf16_t& v : x.a) v = bf16_t(0.0f);
    x.a_of(0, 3) = bf16_t(0x1p-127f), x.a_of(1, 4) = bf16_t(0x1p-64f), x.a_of(2, 4) = bf16_t(0x1p-60f);
    for (index_t l = 0; l < 32; ++l) x.set_b(3, l, bf16_t(0x1p100f)), x.set_b(4, l, bf16_t(0x1p-65f));
    x.run(*unit);
    CHECK(bits(x.start(0, 1)) == 0);
    CHECK(bits(x.start(1, 2)) == 0);
    CHECK(bits(x.start(2, 3)) == bits(0x1p-125f));
  }
  product_case x(16, 16, 16, tile::accumulate::keep, 6);
  for (bf16_t& v : x.a) v = bf16_t(0.0f);
  x.start(2, 2) = 0x1p-130f, x.start(3, 3) = 0x1p-126f;
  x.run(tile::emulated_amx_unit);
  CHECK(bits(x.start(2, 2)) == 0);
  CHECK(bits(x.start(3, 3)) == bits(0x1p-126f));
}

}  // namespace
