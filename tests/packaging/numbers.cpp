// SPDX-License-Identifier: BSD-3-Clause
// Every kernel against plain loops in double, on mild numbers; built by flags.sh with flags that change arithmetic.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "heed/heed.hpp"

namespace {

using heed::index_t;
constexpr index_t heads = 2, d = 8;
bool failed = false;

template <class T> using numbers = std::vector<T>;
template <class T> numbers<T> random(index_t count, unsigned seed) {
  numbers<T> x(static_cast<std::size_t>(count));
  for (T& y : x) seed = seed * 1664525u + 1013904223u, y = static_cast<T>(double(seed >> 8) / double(1 << 23) - 1);
  return x;
}
std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

template <class T> struct inputs {
  index_t n, m;
  numbers<T> q = random<T>(heads * n * d, 1), k = random<T>(heads * m * d, 2), v = random<T>(heads * m * d, 3);
  numbers<T> o = numbers<T>(q.size());
  heed::tensor_view<const T, 4> rows(const numbers<T>& x, index_t count) const {
    return heed::bhsd(x.data(), 1, heads, count, d);
  }
  heed::tensor_view<T, 4> out() { return heed::bhsd(o.data(), 1, heads, n, d); }
  double query(index_t h, index_t i, index_t c) const { return static_cast<double>(q[at((h * n + i) * d + c)]); }
  double key(index_t h, index_t j, index_t c) const { return static_cast<double>(k[at((h * m + j) * d + c)]); }
  double value(index_t h, index_t j, index_t c) const { return static_cast<double>(v[at((h * m + j) * d + c)]); }
  double score(index_t h, index_t i, index_t j) const {
    double s = 0;
    for (index_t c = 0; c < d; ++c) s += query(h, i, c) * key(h, j, c);
    return s;
  }

  // weight(head, query, key) sums the values into o; share: over the sum of the weights
  template <class W>
  void check(const char* name, bool share, W weight, double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-12) {
    double worst = 0, size = 0;
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < n; ++i) {
        double below = 0, sum[d] = {};
        for (index_t j = 0; j < m; ++j) {
          const double w = weight(h, i, j);
          below += w;
          for (index_t c = 0; c < d; ++c) sum[c] += w * value(h, j, c);
        }
        for (index_t c = 0; c < d; ++c) {
          const double expected = share ? sum[c] / below : sum[c];
          const double off = std::abs(static_cast<double>(o[at((h * n + i) * d + c)]) - expected);
          size = std::max(size, std::abs(expected)), worst = off <= worst ? worst : off;
        }
      }
    if (!(worst <= tolerance * std::max(size, 1.0))) {
      std::printf("%s, %d bits, %td queries: off by %g of %g\n", name, int(8 * sizeof(T)), n, worst, size);
      failed = true;
    }
  }
};

template <class T> void check_softmax(index_t n, index_t m) {
  inputs<T> x{n, m};
  const auto q = x.rows(x.q, n), k = x.rows(x.k, m), v = x.rows(x.v, m);
  const double scale = 1 / std::sqrt(double(d));
  const auto weight = [&](index_t h, index_t i, index_t j) { return std::exp(scale * x.score(h, i, j)); };
  heed::softmax::forward(q, k, v, x.out());
  x.check("softmax", true, weight);
  heed::softmax::forward(q, k, v, x.out(), {.mask = heed::causal()});
  x.check("softmax, causal", true,
          [&](index_t h, index_t i, index_t j) { return j <= i + m - n ? weight(h, i, j) : 0; });
  heed::softmax::forward(q, k, v, x.out(), {.softcap = 2});
  x.check("softmax, soft-cap", true,
          [&](index_t h, index_t i, index_t j) { return std::exp(2 * std::tanh(scale * x.score(h, i, j) / 2)); });

  numbers<T> part(x.o.size()), lse(at(heads * n)), part_lse(lse.size());
  const auto to = heed::bhsd(part.data(), 1, heads, n, d);
  const heed::tensor_view<T, 3> all(lse.data(), {1, heads, n}, {heads * n, n, 1});
  const heed::tensor_view<T, 3> rest(part_lse.data(), {1, heads, n}, {heads * n, n, 1});
  heed::softmax::forward(q, heed::slice(k, 2, 0, 30), heed::slice(v, 2, 0, 30), x.out(), {.lse = all});
  heed::softmax::forward(q, heed::slice(k, 2, 30, m - 30), heed::slice(v, 2, 30, m - 30), to, {.lse = rest});
  heed::softmax::merge(x.out(), all, to, rest);
  x.check("merge", true, weight);

  // A value that is hidden, and not finite, has no effect.
  const auto visible = std::make_unique<bool[]>(at(m));
  for (index_t j = 0; j < m; ++j) visible[at(j)] = j != 5;
  const heed::mask hides = heed::keep({visible.get(), {1, 1, 1, m}, {0, 0, 0, 1}});
  heed::softmax::forward(q, k, v, x.out(), {.mask = hides});
  numbers<T> spoiled = x.v;
  for (index_t h = 0; h < heads; ++h) spoiled[at((h * m + 5) * d + 1)] = static_cast<T>(NAN);
  heed::softmax::forward(q, k, x.rows(spoiled, m), to, {.mask = hides});
  for (std::size_t i = 0; i < part.size(); ++i)
    if (!(std::abs(part[i] - x.o[i]) <= T(1e-5))) failed = true, std::printf("a hidden NaN is seen\n");

  numbers<T> gates = random<T>(heads * n, 4);
  for (std::size_t i = 0; i < gates.size(); i += 3) gates[i] = 0;
  const heed::tensor_view<const T, 3> given(gates.data(), {1, heads, n}, {heads * n, n, 1});
  heed::mixture_of_head::forward(q, k, v, given, x.out());
  x.check("mixture_of_head", false, [&](index_t h, index_t i, index_t j) {
    double below = 0;
    for (index_t l = 0; l < m; ++l) below += weight(h, i, l);
    return static_cast<double>(gates[at(h * n + i)]) * weight(h, i, j) / below;
  });
}

template <class T> void check_recurrent(index_t n) {
  inputs<T> x{n, n};
  const auto q = x.rows(x.q, n), k = x.rows(x.k, n), v = x.rows(x.v, n);
  const auto map = [](double a) { return a > 0 ? a + 1 : std::exp(a); };
  heed::linear::forward(q, k, v, x.out(), {.mask = heed::causal(), .eps = 0});
  x.check("linear", true, [&](index_t h, index_t i, index_t j) {
    double s = 0;
    for (index_t c = 0; c < d; ++c) s += map(x.query(h, i, c)) * map(x.key(h, j, c));
    return j <= i ? s : 0;
  });
  const std::vector<double> slopes{0.002, 0.3};
  heed::lightning::forward(q, k, v, slopes, x.out());
  x.check("lightning, slopes", false, [&](index_t h, index_t i, index_t j) {
    return j <= i ? std::exp(-slopes[at(h)] * double(i - j)) * x.score(h, i, j) : 0;
  });
  numbers<T> gates = random<T>(heads * n, 5);
  for (T& g : gates) g = T(0.5) * (g - T(1));
  const heed::tensor_view<const T, 3> log_gates(gates.data(), {1, heads, n}, {heads * n, n, 1});
  heed::lightning::forward(q, k, v, heed::log_gates(log_gates), x.out());
  x.check("lightning, gates", false, [&](index_t h, index_t i, index_t j) {
    double sum = 0;
    for (index_t t = j + 1; t <= i; ++t) sum += static_cast<double>(gates[at(h * n + t)]);
    return j <= i ? std::exp(sum) * x.score(h, i, j) : 0;
  });
}

// x = matrix^-1 x, by elimination; the matrix is positive definite
void solve(double (&matrix)[d][d], double (&x)[d]) {
  for (index_t p = 0; p < d; ++p)
    for (index_t r = 0; r < d; ++r) {
      if (r == p) continue;
      const double factor = matrix[r][p] / matrix[p][p];
      for (index_t c = 0; c < d; ++c) matrix[r][c] -= factor * matrix[p][c];
      x[r] -= factor * x[p];
    }
  for (index_t p = 0; p < d; ++p) x[p] /= matrix[p][p];
}

template <class T> void check_local_linear(index_t n, heed::local_linear::solver solver) {
  inputs<T> x{n, 50};
  constexpr double ridge = 0.1;
  const double scale = 1 / std::sqrt(double(d));
  heed::local_linear::forward(x.rows(x.q, n), x.rows(x.k, 50), x.rows(x.v, 50), ridge, x.out(),
                              {.solver = solver, .tolerance = 1e-6});
  index_t row = -1;
  std::vector<double> p(50);
  x.check("local_linear", false, [&](index_t h, index_t i, index_t j) {
    if (row != h * n + i) {  // all weights of a row at once
      row = h * n + i;
      double sum = 0, mean[d] = {}, matrix[d][d] = {}, y[d];
      for (index_t l = 0; l < x.m; ++l) sum += p[at(l)] = std::exp(scale * x.score(h, i, l));
      for (index_t l = 0; l < x.m; ++l)
        for (index_t c = 0; c < d; ++c) mean[c] += p[at(l)] / sum * x.key(h, l, c);
      for (index_t a = 0; a < d; ++a) {
        y[a] = x.query(h, i, a) - mean[a];
        for (index_t c = 0; c < d; ++c)
          for (index_t l = 0; l < x.m; ++l)
            matrix[a][c] += p[at(l)] / sum * (x.key(h, l, a) - mean[a]) * (x.key(h, l, c) - mean[c]);
        matrix[a][a] += ridge;
      }
      solve(matrix, y);
      for (index_t l = 0; l < x.m; ++l) {
        double factor = 1;
        for (index_t c = 0; c < d; ++c) factor += (x.key(h, l, c) - mean[c]) * y[c];
        p[at(l)] *= factor / sum;
      }
    }
    return p[at(j)];
  }, 5e-5);
}

template <class T> void check_all() {
  check_softmax<T>(3, 70);
  check_softmax<T>(100, 130);
#ifndef SOFTMAX_ALONE
  check_recurrent<T>(200);
  check_local_linear<T>(40, heed::local_linear::solver::conjugate_gradient);
  check_local_linear<T>(40, heed::local_linear::solver::direct);
#endif
}

}  // namespace

int main() {
  const float q[] = {1}, k[] = {0, 1};
  float o[1];
  heed::softmax::forward(heed::matrix(&q[0], 1, 1), heed::matrix(&k[0], 2, 1), heed::matrix(&k[0], 2, 1),
                         heed::matrix(&o[0], 1, 1));
  if (!(std::abs(o[0] - 0.7310586f) < 1e-6f)) std::printf("softmax of {0, 1}: %g\n", double(o[0])), failed = true;
  check_all<float>();
#ifndef FLOAT_ALONE
  check_all<double>();
#endif
  return failed ? 1 : 0;
}
