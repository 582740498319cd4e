// SPDX-License-Identifier: BSD-3-Clause

// The tile calls are enough for the kernels to come: each client below is about as long as it will be in the library,
// and is compared with plain loops in double.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "heed/tile/multiply.hpp"
#include "heed/tile/pack.hpp"
#include "heed/pairwise/key_ranges.hpp"
#include "heed/tile/online_softmax.hpp"
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
template <class T> std::vector<T*> rows_of(grid<T>& g) {
  std::vector<T*> rows;
  for (index_t i = 0; i < g.rows; ++i) rows.push_back(g.data() + i * g.stride);
  return rows;
}

// Lane tiles span all vectors of the machine.
template <class T> constexpr index_t lanes_of = tile::max_lanes<T>;
template <class T> constexpr double tolerance = std::is_same_v<T, float> ? 3e-5 : 1e-13;
constexpr double std::numbers::log2e = 1.4426950408889634;

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

// ---- lightning attention: one block. state is [D][lanes of E]; v and out are rows
// power[n + length] = decay^n, 0 for n < 0

template <class T>
void lightning_block(grid<T>& q, grid<T>& k, grid<T>& v, double scale, std::vector<T>& power, grid<T>& state,
                     grid<T>& out) {
  const index_t length = q.rows, lanes = lanes_of<T>, dim = q.stride, width = v.stride;
  T* const decay = power.data() + length;
  grid<T> queries = packed(q, scale), scores(length, lanes), sums(width, lanes), values = packed(v, 1),
          weighed(length, lanes);
  multiply(state, a_is::columns, queries, sums, width, dim);  // state read
  multiply(k, a_is::rows, queries, scores, length, dim);
  recurrent::decay(scores.data(), lanes, length, lanes, decay, index_t(0));
  multiply(v, a_is::columns, scores, sums, width, length, tile::accumulate::scale, decay + 1);  // lane r: decay^(r+1)
  const std::vector<T> one(at(lanes), T(1)), whole(at(lanes), decay[length]);
  tile::scatter<T>(sums.data(), lanes, one.data(), rows_of(out).data(), length, width);
  std::vector<T> rest(at(lanes), T(0));
  for (index_t s = 0; s < length; ++s) rest[at(s)] = decay[length - 1 - s];
  tile::scatter<T>(values.data(), lanes, rest.data(), rows_of(weighed).data(), length, width);  // decay^(C-1-s) v_s
  multiply(k, a_is::columns, weighed, state, dim, length, tile::accumulate::scale, whole.data());    // state update
}

// ---- mixture of heads: the queries of one head that are used, causal, each at its own place

template <class T>
void gathered_head(const std::vector<const T*>& q, const std::vector<index_t>& places, grid<T>& k, grid<T>& v,
                   double scale, const std::vector<T>& gates, const std::vector<T*>& out) {
  constexpr index_t lanes = lanes_of<T>, w = simd::width<T>, step = 16;
  const index_t used = static_cast<index_t>(q.size()), dim = k.stride, width = v.stride;
  grid<T> queries(dim, lanes), scores(step, lanes), sums(width, lanes);
  tile::gather<T>(q.data(), used, dim, static_cast<T>(scale * std::numbers::log2e), queries.data(), lanes);
  pairwise::positions p;
  p.lanes = used;
  for (index_t l = 0; l < used; ++l) p.lane[at(l)] = pairwise::key_rule{.keys = k.rows, .right = 0}.at(places[at(l)]);
  pairwise::summarize(p, w);
  for (index_t l = (used + w - 1) / w * w; l < lanes; ++l) p.lane[at(l)] = {0, 0};
  std::vector<T> m(at(lanes), std::numeric_limits<T>::lowest()), l(at(lanes), T(0)), factor(at(lanes)), lo(at(lanes)),
      hi(at(lanes));
  const pairwise::key_spans spans = pairwise::make_spans(p);
  for (index_t s = 0; s < spans.count; ++s)
    for (index_t j = spans.span[at(s)].first; j < spans.span[at(s)].end; j += step) {
      const index_t keys = std::min(step, spans.span[at(s)].end - j);
      tile::matrix_product<T> score{.a = k.data() + j * dim,
                                    .a_row = dim,
                                    .a_col = 1,
                                    .b = queries.data(),
                                    .b_row = lanes,
                                    .c = scores.data(),
                                    .c_row = lanes,
                                    .rows = keys,
                                    .depth = dim};
      tile::multiply(score, tile::max_vectors);
      for (index_t x = 0; x < lanes; ++x)
        lo[at(x)] = static_cast<T>(p.lane[at(x)].lo - j), hi[at(x)] = static_cast<T>(p.lane[at(x)].hi - j);
      for (index_t x = 0; x < lanes && spans.span[at(s)].partial; x += w)
        pairwise::hide(scores.data() + x, lanes, index_t(0), keys, lo.data() + x, hi.data() + x, T(0));
      tile::raise(scores.data(), lanes, keys, tile::max_vectors, m.data(), factor.data());
      tile::online_softmax(scores.data(), lanes, keys, tile::max_vectors, m.data(), l.data(), factor.data());
      tile::matrix_product<T> weigh{.a = v.data() + j * width,
                                    .a_row = 1,
                                    .a_col = width,
                                    .b = scores.data(),
                                    .b_row = lanes,
                                    .c = sums.data(),
                                    .c_row = lanes,
                                    .rows = width,
                                    .depth = keys,
                                    .accumulate = tile::accumulate::scale,
                                    .factor = factor.data()};
      tile::multiply(weigh, tile::max_vectors);
    }
  for (index_t x = 0; x < used; ++x) factor[at(x)] = gates[at(x)] / l[at(x)];
  tile::scatter<T>(sums.data(), lanes, factor.data(), out.data(), used, width);
}

// ---- softmax backward: one tile. The head dims fill whole vectors here, so rows of q and dout are lanes as they are.

template <class T> struct gradients { grid<T> dq, dk, dv; };

template <class T>
void backward_tile(grid<T>& q, grid<T>& k, grid<T>& v, grid<T>& dout, const std::vector<T>& lse2,
                   const std::vector<T>& delta, double scale, gradients<T>& g) {
  const index_t lanes = lanes_of<T>, keys = k.rows, queries = q.rows;
  grid<T> qs = packed(q, scale * std::numbers::log2e), douts = packed(dout, 1), p(keys, lanes), ds(keys, lanes),
          sums(q.stride, lanes);
  multiply(k, a_is::rows, qs, p, keys, k.stride);
  tile::known_lse(p.data(), lanes, keys, lanes, lse2.data());
  multiply(v, a_is::rows, douts, ds, keys, v.stride);
  const std::vector<T> unit(at(lanes), T(1));
  std::vector<T> total(at(lanes), T(0));
  const tile::known_weights<T> known{p.data(), lanes, unit.data()};
  tile::product(known, keys, lanes / simd::width<T>, ds.data(), delta.data(), total.data());
  multiply(p, a_is::rows, dout, g.dv, keys, queries, tile::accumulate::keep);  // += sum_i p_ij dout_i
  multiply(ds, a_is::rows, q, g.dk, keys, queries, tile::accumulate::keep);    // += sum_i ds_ij q_i, still without scale
  multiply(k, a_is::columns, ds, sums, q.stride, keys);
  const std::vector<T> scales(at(lanes), static_cast<T>(scale));
  tile::scatter<T>(sums.data(), lanes, scales.data(), rows_of(g.dq).data(), queries, q.stride);
}

}  // namespace

TEMPLATE_TEST_CASE("lightning attention: blocks of a sequence, the last one short", "[clients]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(32);
  const index_t dim = 11, width = lanes_of<T> - 1;
  for (const double lambda : {0.9, 1.0, 0.0}) {
    grid<T> state = random_grid<T>(dim, lanes_of<T>, random);
    grid<double> s(dim, width);
    for (index_t d = 0; d < dim; ++d)
      for (index_t e = 0; e < width; ++e) s(d, e) = state.wide(d, e);
    largest output, after;
    for (const index_t length : {lanes_of<T>, lanes_of<T> - 1}) {
      grid<T> q = random_grid<T>(length, dim, random), k = random_grid<T>(length, dim, random),
              v = random_grid<T>(length, width, random);
      grid<T> out(length, width);
      std::vector<T> power(at(length + std::max(length, lanes_of<T>) + 1), T(0));
      for (index_t i = 0; i <= std::max(length, lanes_of<T>); ++i)
        power[at(length + i)] = static_cast<T>(std::pow(lambda, double(i)));
      lightning_block(q, k, v, 0.25, power, state, out);
      for (index_t i = 0; i < length; ++i) {  // token by token
        for (index_t d = 0; d < dim; ++d)
          for (index_t e = 0; e < width; ++e) s(d, e) = lambda * s(d, e) + k.wide(i, d) * v.wide(i, e);
        for (index_t e = 0; e < width; ++e) {
          double o = 0;
          for (index_t d = 0; d < dim; ++d) o += 0.25 * q.wide(i, d) * s(d, e);
          output.add(out.wide(i, e), o);
        }
      }
      for (index_t d = 0; d < dim; ++d)
        for (index_t e = 0; e < width; ++e) after.add(state.wide(d, e), s(d, e));
    }
    CAPTURE(lambda);
    CHECK(output.relative() < tolerance<T>);
    CHECK(after.relative() < tolerance<T>);
  }
}

TEMPLATE_TEST_CASE("mixture of heads: a gathered tile", "[clients]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(33);
  const index_t n = 150, dim = 10, width = 7;
  grid<T> q = random_grid<T>(n, dim, random), k = random_grid<T>(n, dim, random), v = random_grid<T>(n, width, random),
          out(n, width);
  std::vector<const T*> rows;
  std::vector<T*> out_rows;
  std::vector<T> gates, all_gates(at(n), T(0));
  std::vector<index_t> places;
  for (index_t i = 1; i < n && static_cast<index_t>(places.size()) < lanes_of<T> - 1; i += 1 + random.below(4)) {
    places.push_back(i), rows.push_back(q.data() + i * dim), out_rows.push_back(out.data() + i * width);
    gates.push_back(static_cast<T>(0.25 + random.uniform()));
    all_gates[at(i)] = gates.back();
  }
  gathered_head(rows, places, k, v, 0.4, gates, out_rows);
  largest error;
  bool zeros = true;
  for (index_t i = 0; i < n; ++i) {
    double sum = 0;
    std::vector<double> o(at(width), 0.0);
    for (index_t j = 0; j <= i; ++j) {
      double s = 0;
      for (index_t d = 0; d < dim; ++d) s += q.wide(i, d) * k.wide(j, d);
      sum += s = std::exp(0.4 * s);
      for (index_t e = 0; e < width; ++e) o[at(e)] += s * v.wide(j, e);
    }
    for (index_t e = 0; e < width; ++e) {
      if (all_gates[at(i)] == T(0)) zeros = zeros && out(i, e) == T(0);
      error.add(out.wide(i, e), double(all_gates[at(i)]) * o[at(e)] / sum);
    }
  }
  CHECK(error.relative() < tolerance<T>);
  CHECK(zeros);
}

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
