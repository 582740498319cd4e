// SPDX-License-Identifier: BSD-3-Clause

// What gradients must be without any reference: sums that are known, symmetries, sums over parts of a call, and, along
// random directions under random options, the derivative of the kernel's own forward.

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/central_differences.hpp"
#include "support/softmax_backward_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using options = heed::softmax::options<double>;
using double_case = backward_case<double>;

constexpr shape shapes[] = {{2, 4, 2, 40, 61, 12, 9}, {1, 2, 1, 3, 150, 20, 7}, {1, 1, 3, 30, 33, 8, 16}};

double_case differentiated(const shape& s, const options& how = {}, bool with_dlse = true) {
  double_case x(s, how);
  if (!with_dlse) x.wanted.dlse = {};
  x.forward(), x.backward();
  return x;
}
void run(double_case& x) { x.forward(), x.backward(); }

double dot(const buffer<double>& a, const buffer<double>& b) {
  double sum = 0;
  const auto [nb, nh, nn, nd] = a.size();
  for (index_t i = 0; i < nb * nh * nn * nd; ++i)
    sum += a(i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd) *
           b(i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd);
  return sum;
}
// to = map(rows of from): row(i) of to is row order(i) of from
template <class Order> void reorder(const buffer<double>& from, const buffer<double>& to, Order order) {
  for (index_t b = 0; b < to.size()[0]; ++b)
    for (index_t h = 0; h < to.size()[1]; ++h)
      for (index_t i = 0; i < to.size()[2]; ++i)
        for (index_t d = 0; d < to.size()[3]; ++d) to(b, h, i, d) = from(b, h, order(i), d);
}
void copy(const buffer<double>& from, const buffer<double>& to) {
  reorder(from, to, [](index_t i) { return i; });
}
double apart(const buffer<double>& a, const buffer<double>& b) { return largest_difference(a, b); }

template <class T> heed::tensor_view<T, 4> rows(heed::tensor_view<T, 4> x, index_t first, index_t count) {
  return heed::slice(x, 2, first, count);
}
heed::tensor_view<const double, 3> rows3(const buffer<double>& x, index_t first, index_t count) {
  const auto v = x.view3();
  return {v.data() + first * v.stride(2), {v.extent(0), v.extent(1), count}, {v.stride(0), v.stride(1), v.stride(2)}};
}

}  // namespace

TEST_CASE("v . dv = dout . o, and q . dq = k . dk") {
  for (const shape& s : shapes)
    for (const options& how :
         {options{}, options{.mask = heed::causal(), .scale = 0.3},
          options{.mask = heed::window(20, 3), .softcap = 2, .alibi_slopes = 0.1, .sink_logits = 0.5}}) {
      const auto x = differentiated(s, how);
      const double of_v = dot(x.v, x.dv), of_o = dot(x.dout, x.o), of_q = dot(x.q, x.dq), of_k = dot(x.k, x.dk);
      CHECK(std::abs(of_v - of_o) <= 1e-12 * (1 + std::abs(of_o)));
      CHECK(std::abs(of_q - of_k) <= 1e-12 * (1 + std::abs(of_k)));
    }
}

TEST_CASE("the gradients by a row's scores add up to dlse, with the sink's") {
  for (const shape& s : shapes) {
    const std::vector<double> zeros(static_cast<std::size_t>(s.batch * s.out_heads() * s.queries * s.keys), 0);
    const heed::tensor_view<const double, 4> bias(zeros.data(), {s.batch, s.out_heads(), s.queries, s.keys},
                                                  {s.out_heads() * s.queries * s.keys, s.queries * s.keys, s.keys, 1});
    const auto x = differentiated(s, {.bias = bias});
    double worst = 0;
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.out_heads(); ++h)
        for (index_t i = 0; i < s.queries; ++i) {
          double sum = 0;
          for (index_t j = 0; j < s.keys; ++j) sum += x.dbias(b, h, i, j);
          worst = std::max(worst, std::abs(sum - x.dlse(b, h, i)));
        }
    CHECK(worst <= 1e-12);
    const auto y = differentiated(s, {.bias = bias, .sink_logits = 1});
    double of_scores = 0, of_sinks = 0, of_lse = 0;
    y.dbias.each([&](double e) { of_scores += e; });
    y.dsinks.each([&](double e) { of_sinks += e; });
    y.dlse.each([&](double e) { of_lse += e; });
    CHECK(std::abs(of_scores + of_sinks - of_lse) <= 1e-11);
  }
}

TEST_CASE("one number added to all keys changes nothing: without dlse, dk adds up to 0") {
  for (const shape& s : shapes) {
    const auto x = differentiated(s, {}, false);
    for (index_t h = 0; h < s.kv_heads; ++h)
      for (index_t d = 0; d < s.dim; ++d) {
        double sum = 0;
        for (index_t j = 0; j < s.keys; ++j) sum += x.dk(0, h, j, d);
        CHECK(std::abs(sum) <= 1e-12);
      }
  }
}

TEST_CASE("equal values and no dlse: no gradient of q and k") {
  for (const shape& s : shapes) {
    double_case x(s, {.mask = heed::window(30, 5)});
    x.wanted.dlse = {};
    x.v.fill(-2.5);
    run(x);
    double worst = 0;
    x.dq.each([&](double e) { worst = std::max(worst, std::abs(e)); });
    x.dk.each([&](double e) { worst = std::max(worst, std::abs(e)); });
    CHECK(worst <= 1e-12);
  }
}

TEST_CASE("gradients are linear in dout and dlse") {
  for (const shape& s : shapes) {
    const options how{.mask = heed::causal(), .alibi_slopes = 0.1, .sink_logits = 0.2};
    const auto x = differentiated(s, how);
    double_case y(s, how), sum(s, how);
    y.dout.each([n = 0](double& e) mutable { e = std::sin(n++); });
    y.dlse.each([n = 0](double& e) mutable { e = std::cos(n++); });
    run(y);
    const auto combine = [](const buffer<double>& a, const buffer<double>& b, const buffer<double>& to) {
      const auto [nb, nh, nn, nd] = to.size();
      for (index_t i = 0; i < nb * nh * nn * nd; ++i) {
        const index_t at[] = {i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd};
        to(at[0], at[1], at[2], at[3]) = 2 * a(at[0], at[1], at[2], at[3]) - 3 * b(at[0], at[1], at[2], at[3]);
      }
    };
    combine(x.dout, y.dout, sum.dout), combine(x.dlse, y.dlse, sum.dlse);
    run(sum);
    for (const auto member :
         {&double_case::dq, &double_case::dk, &double_case::dv, &double_case::dsinks, &double_case::dslopes}) {
      const auto should = buffer<double>::output((x.*member).size());
      combine(x.*member, y.*member, should);
      double size = 1;
      should.each([&](double e) { size = std::max(size, std::abs(e)); });
      CHECK(apart(sum.*member, should) <= 1e-12 * size);
    }
  }
}

TEST_CASE("the order of the keys and of the queries is kept") {
  for (const shape& s : shapes) {
    const auto x = differentiated(s);
    double_case keys(s), queries(s);
    const auto of_keys = [&](index_t j) { return (j * 7 + 3) % s.keys; };
    const auto of_queries = [&](index_t i) { return s.queries - 1 - i; };
    reorder(x.k, keys.k, of_keys), reorder(x.v, keys.v, of_keys);
    run(keys);
    const auto dk = buffer<double>::output(x.dk.size()), dv = buffer<double>::output(x.dv.size()),
               dq = buffer<double>::output(x.dq.size());
    reorder(x.dk, dk, of_keys), reorder(x.dv, dv, of_keys);
    CHECK(apart(keys.dq, x.dq) <= 1e-12);
    CHECK(apart(keys.dk, dk) <= 1e-12);
    CHECK(apart(keys.dv, dv) <= 1e-12);
    reorder(x.q, queries.q, of_queries), reorder(x.dout, queries.dout, of_queries);
    reorder(x.dlse, queries.dlse, of_queries);
    run(queries);
    reorder(x.dq, dq, of_queries);
    CHECK(apart(queries.dq, dq) <= 1e-12);
    CHECK(apart(queries.dk, x.dk) <= 1e-12);
    CHECK(apart(queries.dv, x.dv) <= 1e-12);
  }
}

TEST_CASE("turned queries and keys have turned gradients; a factor moved from q to the scale divides dq") {
  for (const shape& s : shapes) {
    const auto x = differentiated(s, {.mask = heed::causal(), .scale = 0.4});
    double_case turned(s, {.mask = heed::causal(), .scale = 0.4}), scaled(s, {.mask = heed::causal(), .scale = 0.1});
    const auto turn = [](const buffer<double>& y) {  // by one angle in every plane of two neighbours
      const double c = std::cos(0.7), t = std::sin(0.7);
      for (index_t b = 0; b < y.size()[0]; ++b)
        for (index_t h = 0; h < y.size()[1]; ++h)
          for (index_t i = 0; i < y.size()[2]; ++i)
            for (index_t d = 0; d + 1 < y.size()[3]; d += 2) {
              const double first = y(b, h, i, d), second = y(b, h, i, d + 1);
              y(b, h, i, d) = c * first - t * second;
              y(b, h, i, d + 1) = t * first + c * second;
            }
    };
    turn(turned.q), turn(turned.k);
    run(turned);
    turn(x.dq), turn(x.dk);
    CHECK(apart(turned.dq, x.dq) <= 1e-12);
    CHECK(apart(turned.dk, x.dk) <= 1e-12);
    CHECK(apart(turned.dv, x.dv) <= 1e-12);
    scaled.q.each([](double& e) { e *= 4; });
    run(scaled);
    scaled.dq.each([](double& e) { e *= 4; });
    const auto y = differentiated(s, {.mask = heed::causal(), .scale = 0.4});
    CHECK(apart(scaled.dq, y.dq) <= 1e-12);
    CHECK(apart(scaled.dk, y.dk) <= 1e-12);
  }
}

TEST_CASE("a group adds up the gradients of its heads with keys and values repeated, and the other way round") {
  for (const auto& [heads, kv_heads] : {std::array<index_t, 2>{6, 2}, {2, 6}})
    for (const index_t n : {2, 30}) {
      const shape s{2, heads, kv_heads, n, 40, 12, 9};
      const auto x = differentiated(s, {.mask = heed::causal()});
      double_case each({2, 6, 6, n, 40, 12, 9}, {.mask = heed::causal()});
      const auto repeat = [](const buffer<double>& from, const buffer<double>& to) {
        for (index_t b = 0; b < 2; ++b)
          for (index_t h = 0; h < 6; ++h)
            for (index_t i = 0; i < to.size()[2]; ++i)
              for (index_t d = 0; d < to.size()[3]; ++d) to(b, h, i, d) = from(b, h * from.size()[1] / 6, i, d);
      };
      const auto sum = [](const buffer<double>& from, const extents& to) {
        auto sums = buffer<double>::output(to);
        sums.fill(0);
        for (index_t b = 0; b < 2; ++b)
          for (index_t h = 0; h < 6; ++h)
            for (index_t i = 0; i < to[2]; ++i)
              for (index_t d = 0; d < to[3]; ++d) sums(b, h * to[1] / 6, i, d) += from(b, h, i, d);
        return sums;
      };
      repeat(x.q, each.q), repeat(x.k, each.k), repeat(x.v, each.v);
      copy(x.dout, each.dout), copy(x.dlse, each.dlse);
      run(each);
      CHECK(apart(sum(each.dq, x.dq.size()), x.dq) <= 1e-12);
      CHECK(apart(sum(each.dk, x.dk.size()), x.dk) <= 1e-12);
      CHECK(apart(sum(each.dv, x.dv.size()), x.dv) <= 1e-12);
    }
}

TEST_CASE("some queries at a time: their dq, and parts of dk and dv that add up") {
  for (const shape& s : shapes) {
    const auto x = differentiated(s);
    double_case y(s);
    y.forward();
    auto dk = buffer<double>::output(x.dk.size()), dv = buffer<double>::output(x.dv.size());
    dk.fill(0), dv.fill(0);
    const auto add = [](const buffer<double>& part, const buffer<double>& to) {
      const auto [nb, nh, nn, nd] = to.size();
      for (index_t i = 0; i < nb * nh * nn * nd; ++i)
        to(i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd) +=
            part(i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd);
    };
    for (index_t first = 0; first < s.queries;) {
      const index_t count = std::min<index_t>(s.queries - first, 1 + first);
      options how = y.options;
      const auto lse = y.options.lse;
      how.lse = {lse.data() + first * lse.stride(2), {s.batch, s.out_heads(), count}, lse.strides()};
      run_backward<double>({rows(y.q.cview(), first, count), y.k.cview(), y.v.cview(), rows(y.o.cview(), first, count),
                            rows(y.dout.cview(), first, count)},
                           {.dq = rows(y.dq.view(), first, count),
                            .dk = y.dk.view(),
                            .dv = y.dv.view(),
                            .dlse = rows3(y.dlse, first, count)},
                           how, {});
      add(y.dk, dk), add(y.dv, dv);
      first += count;
    }
    CHECK(apart(y.dq, x.dq) <= 1e-12);
    CHECK(apart(dk, x.dk) <= 1e-12);
    CHECK(apart(dv, x.dv) <= 1e-12);
  }
}

TEST_CASE("some keys at a time, with o and lse of all of them: their dk and dv, and parts of dq that add up") {
  for (const shape& s : shapes) {
    const auto x = differentiated(s);
    double_case y(s);
    y.forward();
    auto dq = buffer<double>::output(x.dq.size());
    dq.fill(0);
    const index_t cut = s.keys / 3;
    for (const auto& [first, count] : {std::array<index_t, 2>{0, cut}, {cut, s.keys - cut}}) {
      run_backward<double>(
          {y.q.cview(), rows(y.k.cview(), first, count), rows(y.v.cview(), first, count), y.o.cview(), y.dout.cview()},
          {.dq = y.dq.view(),
           .dk = rows(y.dk.view(), first, count),
           .dv = rows(y.dv.view(), first, count),
           .dlse = y.dlse.view3()},
          y.options, {});
      const auto [nb, nh, nn, nd] = dq.size();
      for (index_t i = 0; i < nb * nh * nn * nd; ++i)
        dq(i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd) +=
            y.dq(i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd);
    }
    CHECK(apart(dq, x.dq) <= 1e-12);
    CHECK(apart(y.dk, x.dk) <= 1e-12);
    CHECK(apart(y.dv, x.dv) <= 1e-12);
  }
}

TEST_CASE("random options: gradients times a direction are the derivative of forward") {
  random_numbers random(77);
  const index_t calls = 300 / static_cast<index_t>(thinning);
  for (index_t call = 0; call < calls; ++call) {
    constexpr std::array<index_t, 2> groups[] = {{1, 1}, {4, 2}, {3, 1}, {1, 3}, {2, 4}};
    const auto& [heads, kv_heads] = groups[random.below(5)];
    const shape s{1 + random.below(2),
                  heads,
                  kv_heads,
                  1 + random.below(call % 7 == 0 ? 90 : 12),
                  1 + random.below(call % 5 == 0 ? 150 : 20),
                  1 + random.below(20),
                  1 + random.below(20)};
    const option_parts<double> parts(s, nullptr, static_cast<std::uint32_t>(call));
    std::vector<const option_parts<double>::part*> chosen;
    std::string names;
    for (const auto& part : parts.all) {
      const bool taken =
          std::any_of(chosen.begin(), chosen.end(), [&](auto* other) { return other->kind == part.kind; });
      if (!taken && random.below(9) == 0) chosen.push_back(&part), names += ", " + part.name;
    }
    INFO(call << ": " << to_string(s) << names);
    options how = parts.of(chosen, parts.whole());
    if (random.below(3) == 0) how.scale = random.normal();
    double_case x(s, how, {}, {}, static_cast<std::uint32_t>(call));
    check(x);
    const auto loss = [&] {
      x.forward();
      double sum = dot(x.dout, x.o);
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t h = 0; h < s.out_heads(); ++h)
          for (index_t i = 0; i < s.queries; ++i)
            if (std::isfinite(x.lse(b, h, i))) sum += x.dlse(b, h, i) * x.lse(b, h, i);
      return sum;
    };
    for (const auto& pair : {std::pair(&double_case::q, &double_case::dq), std::pair(&double_case::k, &double_case::dk),
                             std::pair(&double_case::v, &double_case::dv)}) {
      const auto tensor = pair.first;
      const auto gradient = pair.second;
      const auto before = buffer<double>::input((x.*tensor).size()), direction = buffer<double>::input(before.size());
      copy(x.*tensor, before);
      double length = 0;
      direction.each([&](double& d) { d = random.normal(), length += d * d; });
      direction.each([&](double& d) { d /= std::sqrt(length); });
      const double measured = slope_of(
          [&](double t) {
            const auto [nb, nh, nn, nd] = before.size();
            for (index_t i = 0; i < nb * nh * nn * nd; ++i) {
              const index_t at[] = {i / (nh * nn * nd), i / (nn * nd) % nh, i / nd % nn, i % nd};
              (x.*tensor)(at[0], at[1], at[2], at[3]) =
                  before(at[0], at[1], at[2], at[3]) + t * direction(at[0], at[1], at[2], at[3]);
            }
            return loss();
          },
          1e-3);
      copy(before, x.*tensor);
      const double claimed = dot(direction, x.*gradient);
      CHECK(std::abs(claimed - measured) <= 1e-8 * (1 + std::abs(claimed)));
    }
  }
}

TEST_CASE("random options in float beside the reference, in random layouts") {
  random_numbers random(78);
  const index_t calls = 200 / static_cast<index_t>(thinning);
  for (index_t call = 0; call < calls; ++call) {
    constexpr std::array<index_t, 2> groups[] = {{1, 1}, {4, 2}, {3, 1}, {1, 3}, {2, 4}};
    const auto& [heads, kv_heads] = groups[random.below(5)];
    const shape s{
        1 + random.below(2), heads, kv_heads, 1 + random.below(80), 1 + random.below(150), 1 + random.below(40),
        1 + random.below(40)};
    const option_parts<float> parts(s, nullptr, static_cast<std::uint32_t>(call));
    std::vector<const option_parts<float>::part*> chosen;
    std::string names;
    for (const auto& part : parts.all) {
      const bool taken =
          std::any_of(chosen.begin(), chosen.end(), [&](auto* other) { return other->kind == part.kind; });
      if (!taken && random.below(8) == 0) chosen.push_back(&part), names += ", " + part.name;
    }
    INFO(call << ": " << to_string(s) << names);
    const auto pick = [&] { return output_layouts[random.below(6)]; };
    backward_case<float> x(s, parts.of(chosen, parts.whole()),
                           {pick(), pick(), pick(), pick(), pick(), random.below(4)},
                           {pick(), pick(), pick(), pick(), pick()}, static_cast<std::uint32_t>(call));
    check(x);
  }
}
