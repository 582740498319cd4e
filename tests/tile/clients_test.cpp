// SPDX-License-Identifier: BSD-3-Clause

// The tile calls are enough for softmax backward: the client below is about as long as it will be in the library, and
// is compared with plain loops in double.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <type_traits>
#include <vector>

#include "heed/tile/known_weights.hpp"
#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace tile = heed::tile;
namespace simd = heed::simd;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

// Rows of numbers: caller's tensors, and tiles with lanes across
template <class T> struct grid {
  grid(index_t n, index_t columns) : rows(n), stride(columns), x(at(n * columns), T(0)) {}
  T* data() { return x.data(); }
  T& operator()(index_t i, index_t j) { return x[at(i * stride + j)]; }
  double wide(index_t i, index_t j) const { return static_cast<double>(x[at(i * stride + j)]); }
  index_t rows, stride;
  std::vector<T> x;
};

template <class T> grid<T> random_grid(index_t rows, index_t columns, heed_test::random_numbers& random) {
  grid<T> g(rows, columns);
  for (T& x : g.x) x = static_cast<T>(random.normal());
  return g;
}
template <class T> std::vector<std::byte*> rows_of(grid<T>& g) {
  std::vector<std::byte*> rows;
  for (index_t i = 0; i < g.rows; ++i) rows.push_back(reinterpret_cast<std::byte*>(g.data() + i * g.stride));
  return rows;
}

// Lane tiles span all vectors of the machine.
template <class T> constexpr index_t lanes_of = tile::max_lanes<T>;
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 3e-5 : 1e-13;

template <class T> grid<T> packed(grid<T>& rows, double factor) {  // [column][lane]
  grid<T> out(rows.stride, lanes_of<T>);
  tile::gather<T>(rows_of(rows).data(), rows.rows, rows.stride, static_cast<T>(factor), out.data(), out.stride);
  return out;
}

enum class a_is { rows, columns };  // A(m, k) = a(m, k) or a(k, m)

// c = start(c) + a b, over all lanes
template <class T>
void multiply(grid<T>& a, a_is how, grid<T>& b, grid<T>& c, index_t rows, index_t depth,
              tile::accumulate start = tile::accumulate::zero, const T* factor = nullptr) {
  tile::matrix_product<T> p;
  p.a = a.data(), p.a_row = how == a_is::rows ? a.stride : 1, p.a_col = how == a_is::rows ? 1 : a.stride;
  p.b = b.data(), p.b_row = b.stride, p.c = c.data(), p.c_row = c.stride, p.rows = rows, p.depth = depth,
  p.accumulate = start, p.factor = factor;
  tile::multiply(p, c.stride / simd::width<T>);
}

struct largest {  // error relative to the size of what is compared
  double error = 0, size = 1e-300;
  void add(double got, double want) {
    if (!(std::fabs(got - want) <= error)) error = std::fabs(got - want);
    size = std::max(size, std::fabs(want));
  }
  double relative() const { return error / size; }
};

// Softmax weights of query rows over keys, in double: [query][key]
template <class T>
grid<double> plain_softmax(const grid<T>& q, const grid<T>& k, double scale, std::vector<double>* lse = nullptr) {
  grid<double> p(q.rows, k.rows);
  for (index_t i = 0; i < q.rows; ++i) {
    double sum = 0;
    for (index_t j = 0; j < k.rows; ++j) {
      double s = 0;
      for (index_t d = 0; d < q.stride; ++d) s += q.wide(i, d) * k.wide(j, d);
      sum += p(i, j) = std::exp(scale * s);
    }
    for (index_t j = 0; j < k.rows; ++j) p(i, j) /= sum;
    if (lse != nullptr) lse->push_back(std::log(sum));
  }
  return p;
}

// ---- softmax backward: one tile. The head dims fill whole vectors here, so rows of q and dout are lanes as they are.

template <class T> struct gradients {
  grid<T> dq, dk, dv;
};

template <class T>
void backward_tile(grid<T>& q, grid<T>& k, grid<T>& v, grid<T>& dout, const std::vector<T>& lse2,
                   const std::vector<T>& delta, double scale, gradients<T>& g) {
  const index_t lanes = lanes_of<T>, w = simd::width<T>, keys = k.rows, queries = q.rows;
  grid<T> qs = packed(q, scale * std::numbers::log2e), douts = packed(dout, 1), s(keys, lanes), p(keys, lanes),
          ds(keys, lanes), sums(q.stride, lanes);
  multiply(k, a_is::rows, qs, s, keys, k.stride);
  multiply(v, a_is::rows, douts, ds, keys, v.stride);
  const std::vector<T> unit(at(lanes), T(1));
  std::vector<T> total(at(lanes), T(0));
  const tile::known_weights<T> known{s.data(), lanes, unit.data(), lse2.data()};
  std::vector<T> weights(at(keys * w));
  for (index_t lane = 0; lane < lanes; lane += w) {
    tile::copy_weights(known.at(0, lane), keys, weights.data());
    for (index_t j = 0; j < keys; ++j) std::copy_n(&weights[at(j * w)], w, &p(j, lane));
  }
  tile::product(known, keys, lanes / simd::width<T>, ds.data(), delta.data(), total.data());
  multiply(p, a_is::rows, dout, g.dv, keys, queries, tile::accumulate::keep);  // += sum_i p_ij dout_i
  multiply(ds, a_is::rows, q, g.dk, keys, queries, tile::accumulate::keep);    // += sum_i ds_ij q_i, not scaled
  multiply(k, a_is::columns, ds, sums, q.stride, keys);
  const std::vector<T> scales(at(lanes), static_cast<T>(scale));
  tile::scatter<T>(sums.data(), lanes, scales.data(), rows_of(g.dq).data(), queries, q.stride);
}

}  // namespace

TEMPLATE_TEST_CASE("softmax backward: one tile", "[clients]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(34);
  const index_t dim = tile::max_vectors * simd::width<T>, keys = 29, n = lanes_of<T> - 1;
  const double scale = 1 / std::sqrt(double(dim));
  grid<T> q = random_grid<T>(n, dim, random), k = random_grid<T>(keys, dim, random),
          v = random_grid<T>(keys, dim, random);
  grid<T> dout = random_grid<T>(n, dim, random);
  std::vector<double> lse, wide_delta;
  const grid<double> p = plain_softmax(q, k, scale, &lse);
  grid<double> ds(n, keys);
  std::vector<T> lse2(at(lanes_of<T>), T(0)), delta(at(lanes_of<T>), T(0));
  for (index_t i = 0; i < n; ++i) {
    double mean = 0;  // delta_i = dout_i . o_i
    for (index_t j = 0; j < keys; ++j) {
      for (index_t e = 0; e < dim; ++e) ds(i, j) += dout.wide(i, e) * v.wide(j, e);
      mean += p.wide(i, j) * ds(i, j);
    }
    for (index_t j = 0; j < keys; ++j) ds(i, j) = p.wide(i, j) * (ds(i, j) - mean);
    lse2[at(i)] = static_cast<T>(lse[at(i)] * std::numbers::log2e), delta[at(i)] = static_cast<T>(mean);
  }
  gradients<T> g{grid<T>(n, dim), grid<T>(keys, dim), grid<T>(keys, dim)};
  backward_tile(q, k, v, dout, lse2, delta, scale, g);
  largest dq, dk, dv;
  for (index_t d = 0; d < dim; ++d) {
    for (index_t i = 0; i < n; ++i) {
      double want = 0;
      for (index_t j = 0; j < keys; ++j) want += scale * ds(i, j) * k.wide(j, d);
      dq.add(g.dq.wide(i, d), want);
    }
    for (index_t j = 0; j < keys; ++j) {
      double want_dk = 0, want_dv = 0;
      for (index_t i = 0; i < n; ++i)
        want_dk += scale * ds(i, j) * q.wide(i, d), want_dv += p.wide(i, j) * dout.wide(i, d);
      dk.add(scale * g.dk.wide(j, d), want_dk);
      dv.add(g.dv.wide(j, d), want_dv);
    }
  }
  CHECK(dq.relative() < tolerance<T>);
  CHECK(dk.relative() < tolerance<T>);
  CHECK(dv.relative() < tolerance<T>);
}
