// SPDX-License-Identifier: BSD-3-Clause

// What the reference of backward says, and what a correct kernel may be off: see gradient_rounding in tolerance.hpp.

#include <cmath>

#include "heed/reference/mixture_of_head.hpp"
#include "support/gradient_errors.hpp"
#include "support/softmax_backward_case.hpp"

namespace heed_test {

namespace reference = heed::reference::softmax::detail;

// Fills a gradient of the shape of `like`, and reads it back as the expected one.
template <class T> struct gradient_memory {
  buffer<T> memory;
  explicit gradient_memory(const buffer<T>& like) : memory(buffer<T>::output(like.size())) {}
  expected_gradient read(const char* name) const {
    expected_gradient x{name, memory.size(), {}, {}};
    memory.each([&](const T& element) { x.value.push_back(static_cast<double>(element)); });
    x.allowed.assign(x.value.size(), 0.0);
    return x;
  }
};

template <class T>
static expected_gradients values(const backward_case<T>& x, const heed::softmax::options<T>& options,
                                 const heed::tensor_view<const T, 3>* gates) {
  const gradient_memory<T> dq(x.q), dk(x.k), dv(x.v), dbias(x.dbias), dsinks(x.dsinks), dslopes(x.dslopes),
      dgates(x.lse);
  const bool biased = options.bias.data() != nullptr;
  const auto bias = biased ? dbias.memory.view() : heed::tensor_view<T, 4>{};
  if (gates == nullptr)
    heed::reference::softmax::backward(x.q.cview(), x.k.cview(), x.v.cview(), x.o.cview(), x.dout.cview(),
                                       {.dq = dq.memory.view(),
                                        .dk = dk.memory.view(),
                                        .dv = dv.memory.view(),
                                        .dbias = bias,
                                        .dsink_logits = x.per_head_view(dsinks.memory),
                                        .dalibi_slopes = x.per_head_view(dslopes.memory),
                                        .dlse = x.wanted.dlse},
                                       options);
  else
    heed::reference::mixture_of_head::backward(x.q.cview(), x.k.cview(), x.v.cview(), *gates, x.o.cview(),
                                               x.dout.cview(),
                                               {.dq = dq.memory.view(),
                                                .dk = dk.memory.view(),
                                                .dv = dv.memory.view(),
                                                .dbias = bias,
                                                .dgates = dgates.memory.view3()},
                                               options);
  return {dq.read("dq"),         dk.read("dk"),           dv.read("dv"),        dbias.read("dbias"),
          dsinks.read("dsinks"), dslopes.read("dslopes"), dgates.read("dgates")};
}

// The errors of one row, by the names of tolerance.hpp
template <class T> struct row_errors {
  const backward_case<T>& x;
  const heed::softmax::options<T>& options;
  const gradient_rounding& unit;
  const reference::gradient_row& row;
  const reference::row_major &keys, &values;
  double scale;

  std::vector<double> weight, ds, dx, dy;  // r, u and what becomes of it, per key that the row sees
  double lse = 0, delta = 0, head_gradient = 0;

  // sum_d |scale q_d k_d|
  double product(const reference::seen_key& key) const {
    double sum = 0;
    for (index_t d = 0; d < keys.cols(); ++d) sum += std::abs(scale * row.q(d) * keys(key.key, d));
    return sum;
  }
  // sum_e |dout_e v_e|
  double gain(const reference::seen_key& key) const {
    double sum = 0;
    for (index_t e = 0; e < values.cols(); ++e) sum += std::abs(row.dout(e) * values(key.key, e));
    return sum;
  }
  // how: what forward has left in lse and o; dlse: the incoming gradient
  void find(const exactness& how, double dlse) {
    const storage_rounding& o = how.o;
    const double of_gain = unit.dot(x.s.value_dim);
    const reference::pair_rules<T, heed::softmax::options<T>> rules{options, x.s.dim};
    std::vector<score_errors> pairs;
    for (const reference::seen_key& key : row.seen) {
      const auto at = rules.at(row.s, row.head, row.query, key.key);
      pairs.push_back(errors_of_score(unit, rules, row.s, at, keys.row(key.key).dot(row.q), product(key), key.score));
      lse += key.p * pairs.back().score;
    }
    lse += how.weights;
    double l1 = unit.eps * std::abs(dlse);
    for (std::size_t j = 0; j < row.seen.size(); ++j) {
      weight.push_back(pairs[j].score + lse + unit.exponent);
      head_gradient += row.seen[j].p * (weight[j] + of_gain) * gain(row.seen[j]);
    }
    const double gate = std::abs(row.gate);
    for (index_t e = 0; e < values.cols() && o.digits > 0; ++e) {
      double stored = 0;
      for (const reference::seen_key& key : row.seen) stored += key.p * values(key.key, e);
      l1 += std::abs(row.dout(e)) * o.at(gate * stored);
    }
    delta = gate * head_gradient + l1;
    if (o.digits > 0 && gate > 0) head_gradient += l1 / gate;
    for (std::size_t j = 0; j < row.seen.size(); ++j) {
      const reference::seen_key& key = row.seen[j];
      const double difference = std::abs(gate * key.b - row.delta);
      ds.push_back(key.p * (weight[j] * difference + gate * of_gain * gain(key) + delta) +
                   unit.least * (1 + difference));
      dx.push_back(ds[j] * pairs[j].slope + std::abs(key.ds) * pairs[j].term_error);
      dy.push_back(ds[j] * pairs[j].slope + std::abs(key.ds) * pairs[j].slope_error);
    }
  }
};

template <class T>
expected_gradients expected(const backward_case<T>& x, const heed::softmax::options<T>& options, const exactness& how,
                            const heed::tensor_view<const T, 3>* gates) {
  expected_gradients all = values(x, options, gates);
  const gradient_rounding unit = gradient_rounding_of<T>(x.s.keys);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(x.s.dim)));
  const auto count = [](index_t n) { return static_cast<double>(n); };
  const index_t heads = x.s.out_heads();
  const double rows_of_key = count(x.s.queries * (heads / std::max<index_t>(1, x.s.kv_heads))),
               keys_of_row = count(x.s.keys * (heads / std::max<index_t>(1, x.s.heads))),
               pairs_of_head = count(x.s.batch * x.s.queries) * count(x.s.keys);
  const double of_q = unit.sum(keys_of_row), of_k = unit.sum(rows_of_key),
               of_bias = unit.sum(count(x.s.batch * heads) * count(x.s.queries * x.s.keys) /
                                  std::max(1.0, count(static_cast<index_t>(all.dbias.value.size())))),
               of_slopes = unit.sum(pairs_of_head), of_sinks = unit.sum(count(x.s.batch * x.s.queries));
  const auto visit = [&](const reference::gradient_row& row, const reference::row_major& keys,
                         const reference::row_major& v) {
    const index_t b = row.s.batch, query = row.s.first_query + row.query;
    const double dlse =
        x.wanted.dlse.data() != nullptr ? std::abs(reference::number(x.wanted.dlse(b, row.head, query))) : 0.0;
    row_errors<T> error{x, options, unit, row, keys, v, scale, {}, {}, {}, {}};
    error.find(how, gates == nullptr ? dlse : 0);
    if (gates != nullptr) all.dgates.allowed[all.dgates.at(b, row.head, query, 0)] += error.head_gradient + unit.least;
    const double sink_weight =
        row.p_sink * (error.lse + unit.exponent + unit.eps * std::abs(reference::sink_of(options, row.head)));
    if (row.p_sink > 0)
      all.dsinks.allowed[static_cast<std::size_t>(row.head)] +=
          row.p_sink * error.delta + (sink_weight + row.p_sink * of_sinks) * std::abs(row.delta) + unit.least;
    for (std::size_t j = 0; j < row.seen.size(); ++j) {
      const reference::seen_key& key = row.seen[j];
      const index_t at = row.s.first_key + key.key;
      const double dy = error.dy[j], p = std::abs(row.gate) * key.p, distance = std::abs(count(row.place - key.key));
      for (index_t d = 0; d < x.s.dim; ++d) {
        all.dq.allowed[all.dq.at(b, row.q_head, query, d)] +=
            std::abs(scale) * (dy + of_q * std::abs(key.dy)) * std::abs(keys(key.key, d)) + unit.least;
        all.dk.allowed[all.dk.at(b, row.kv_head, at, d)] +=
            std::abs(scale) * (dy + of_k * std::abs(key.dy)) * std::abs(row.q(d)) + unit.least;
      }
      for (index_t e = 0; e < x.s.value_dim; ++e)
        all.dv.allowed[all.dv.at(b, row.kv_head, at, e)] +=
            ((error.weight[j] + of_k) * p + unit.least) * std::abs(row.dout(e)) + unit.least;
      if (!all.dbias.value.empty())
        all.dbias.allowed[all.dbias.at(b, row.head, query, at)] +=
            error.dx[j] + of_bias * std::abs(key.dx) + unit.least;
      all.dslopes.allowed[static_cast<std::size_t>(row.head)] +=
          (error.dx[j] + of_slopes * std::abs(key.dx)) * distance + unit.least;
    }
  };
  reference::each_gradient_row(
      x.q.cview(), x.k.cview(), x.v.cview(), x.dout.cview(),
      gates == nullptr ? x.wanted.dlse : heed::tensor_view<const T, 3>{}, options,
      [&](index_t b, index_t h, index_t i) { return gates != nullptr ? reference::number((*gates)(b, h, i)) : 1.0; },
      visit);
  return all;
}

#define INSTANTIATE(T)                                                                                                 \
  template expected_gradients expected<T>(const backward_case<T>&, const heed::softmax::options<T>&, const exactness&, \
                                          const heed::tensor_view<const T, 3>*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace heed_test
