// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Random calls of linear and lightning attention, and of what stands beside the kernels: convert, quantize, merge.

#include <memory>
#include <string>
#include <vector>

#include "heed/lightning.hpp"
#include "soak/calls.hpp"
#ifdef HEED_DISPATCH
#include "heed/convert.hpp"
#include "heed/linear.hpp"
#include "heed/softmax.hpp"
#endif

namespace heed_test {

template <class T> struct recurrent_inputs {
  using acc = heed::detail::acc_t<T>;

  random_numbers random;
  shape s;
  bool lengths, normalize, function, gated;
  heed::feature feature;
  index_t chunk;
  std::vector<std::int32_t> held;
  std::vector<double> slopes;
  buffer<T> q, k, v, dout;
  buffer<acc> s0, z0, gates;
  layout to;

  // states: heads of the state
  recurrent_inputs(std::uint32_t seed, bool per_query_head)
      : random(seed),
        s(random_shape(random, true, true)),
        lengths(random.below(3) == 0),
        normalize(random.below(2) == 0),
        function(random.below(3) == 0),
        gated(random.below(2) == 0),
        feature(random.below(2) == 0 ? heed::feature::elu_plus_one : heed::feature::softmax),
        chunk(random.below(3) == 0 ? 24 : 0),
        held(static_cast<std::size_t>(s.batch)),
        slopes(static_cast<std::size_t>(s.heads)),
        q(rows(s.heads, s.dim)),
        k(rows(s.kv_heads, s.dim)),
        v(rows(s.kv_heads, s.value_dim)),
        dout(rows(s.heads, s.value_dim)),
        s0(random_input<acc>(random, {s.batch, per_query_head ? s.heads : s.kv_heads, s.dim, s.value_dim})),
        z0(random_input<acc>(random, {s.batch, s.kv_heads, s.dim, 1})),
        gates(random_input<acc>(random, {s.batch, s.heads, s.queries, 1})),
        to(output_layout(random)) {
    for (std::int32_t& n : held) n = random.below(static_cast<std::int32_t>(s.keys) + 1);
    for (double& slope : slopes) slope = random.uniform();
    z0.each([](acc& z) { z = std::fabs(z); });
    gates.each([](acc& g) { g = -std::fabs(g) / 8; });
  }
  buffer<T> rows(index_t heads, index_t columns) {
    return random_input<T>(random, {s.batch, heads, s.queries, columns}, 0.5);
  }
  heed::decay<acc> decay() const {
    if (gated) return heed::decay<acc>(heed::tensor_view<const acc, 3>(gates.view3()));
    return heed::decay<acc>(slopes);
  }
  std::string name(const char* verb) const { return std::string(verb) + " " + type_name<T>() + " " + to_string(s); }
  // A copy of the first state, which a run may change
  buffer<acc> copy(const buffer<acc>& from) const {
    auto x = buffer<acc>::output(from.size());
    for (index_t b = 0; b < from.size()[0]; ++b)
      for (index_t h = 0; h < from.size()[1]; ++h)
        for (index_t i = 0; i < from.size()[2]; ++i)
          for (index_t c = 0; c < from.size()[3]; ++c) x(b, h, i, c) = from(b, h, i, c);
    return x;
  }
};

enum class recurrent_verb { forward, backward, decode };

template <class T> random_call lightning_call(recurrent_verb verb, std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const recurrent_inputs<T>>(seed, true);
  return {
      x->name("lightning"), [x, verb](const place& at) {
        fuse f;
        const auto o = buffer<T>::output(x->dout.size(), x->to);
        const auto dq = buffer<acc>::output(x->q.size(), x->to), dk = buffer<acc>::output(x->k.size()),
                   dv = buffer<acc>::output(x->v.size());
        const auto memory = verb == recurrent_verb::decode ? x->copy(x->s0) : buffer<acc>::output(x->s0.size());
        const heed::state_view<acc> state{memory.view(), {}};
        heed::lightning::options<acc> opt{.scale = 0.5, .chunk = x->chunk};
        if (x->lengths) opt.mask = heed::key_lengths(x->held);
        const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
        const auto decay = x->decay();
#ifdef HEED_DISPATCH
        if (verb == recurrent_verb::decode)
          return run_verb(
              at, o, f,
              [&](auto to, auto& c) { return heed::lightning::plan_decode(q, k, v, decay, state, to, opt, c); },
              [&](auto to, auto& c) { heed::lightning::decode(q, k, v, decay, state, to, opt, c); },
              [&] { return hash_of(o, memory); });
#endif
        opt.initial_state.s = x->s0.cview();
#ifdef HEED_DISPATCH
        if (verb == recurrent_verb::backward) {
          const auto wanted = [&](auto view) {
            return heed::lightning::gradients<acc>{
                .dq = view, .dk = dk.view(), .dv = dv.view(), .dinitial_state = state};
          };
          const auto dout = x->dout.cview();
          return run_verb(
              at, dq, f,
              [&](auto g, auto& c) { return heed::lightning::plan_backward(q, k, v, decay, dout, wanted(g), opt, c); },
              [&](auto g, auto& c) { heed::lightning::backward(q, k, v, decay, dout, wanted(g), opt, c); },
              [&] { return hash_of(dq, dk, dv, memory); });
        }
#endif
        opt.final_state = state;
        return run_verb(
            at, o, f, [&](auto to, auto& c) { return heed::lightning::plan_forward(q, k, v, decay, to, opt, c); },
            [&](auto to, auto& c) { heed::lightning::forward(q, k, v, decay, to, opt, c); },
            [&] { return hash_of(o, memory); });
      }};
}

#ifdef HEED_DISPATCH

template <class T> random_call linear_call(recurrent_verb verb, std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const recurrent_inputs<T>>(seed, false);
  const auto options = [x](fuse& f) {
    heed::linear::options<acc> opt{.scale = 0.5, .feature = x->feature, .normalize = x->normalize, .chunk = x->chunk};
    if (x->function)
      opt.feature = heed::feature_map<acc>(
          [&f](acc y) {
            f.burn();
            return y > 0 ? y + acc(0.5) : acc(0.5);
          },
          [](acc y) { return y > 0 ? acc(1) : acc(0); });
    if (x->lengths) opt.mask = heed::key_lengths(x->held);
    return opt;
  };
  const auto forward_result = std::make_shared<buffer<T>>(buffer<T>::output(x->dout.size()));
  if (verb == recurrent_verb::backward) {
    fuse none;
    auto opt = options(none);
    opt.mask = opt.mask & heed::causal(), opt.initial_state = {x->s0.cview(), x->z0.view3()};
    heed::linear::forward(x->q.cview(), x->k.cview(), x->v.cview(), forward_result->view(), opt);
  }
  return {x->name("linear"), [x, verb, options, forward_result](const place& at) {
            fuse f;
            const auto o = buffer<T>::output(x->dout.size(), x->to);
            const auto dq = buffer<acc>::output(x->q.size(), x->to), dk = buffer<acc>::output(x->k.size()),
                       dv = buffer<acc>::output(x->v.size());
            const bool decodes = verb == recurrent_verb::decode;
            const auto memory = decodes ? x->copy(x->s0) : buffer<acc>::output(x->s0.size());
            const auto sums = decodes ? x->copy(x->z0) : buffer<acc>::output(x->z0.size());
            heed::state_view<acc> state{memory.view(), {}};
            if (x->normalize) state.z = sums.view3();
            auto opt = options(f);
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            if (decodes)
              return run_verb(
                  at, o, f, [&](auto to, auto& c) { return heed::linear::plan_decode(q, k, v, state, to, opt, c); },
                  [&](auto to, auto& c) { heed::linear::decode(q, k, v, state, to, opt, c); },
                  [&] { return hash_of(o, memory, sums); });
            opt.mask = opt.mask & heed::causal(), opt.initial_state = {x->s0.cview(), x->z0.view3()};
            if (verb == recurrent_verb::forward) {
              opt.final_state = state;
              return run_verb(
                  at, o, f, [&](auto to, auto& c) { return heed::linear::plan_forward(q, k, v, to, opt, c); },
                  [&](auto to, auto& c) { heed::linear::forward(q, k, v, to, opt, c); },
                  [&] { return hash_of(o, memory, sums); });
            }
            const auto wanted = [&](auto view) {
              return heed::linear::gradients<acc>{
                  .dq = view, .dk = dk.view(), .dv = dv.view(), .dinitial_state = state};
            };
            const auto dout = x->dout.cview(), result = forward_result->cview();
            return run_verb(
                at, dq, f,
                [&](auto g, auto& c) { return heed::linear::plan_backward(q, k, v, result, dout, wanted(g), opt, c); },
                [&](auto g, auto& c) { heed::linear::backward(q, k, v, result, dout, wanted(g), opt, c); },
                [&] { return hash_of(dq, dk, dv, memory, sums); });
          }};
}

template <class From, class To> random_call convert_call(std::uint32_t seed) {
  random_numbers random(seed);
  const shape s = random_shape(random, true);
  const auto x = std::make_shared<const buffer<From>>(random_input<From>(random, {s.batch, s.heads, s.keys, s.dim}));
  const layout how = output_layout(random);
  return {std::string("convert ") + type_name<From>() + " to " + type_name<To>(), [x, how](const place& at) {
            fuse f;
            const auto o = buffer<To>::output(x->size(), how);
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::plan_convert(x->cview(), to, c); },
                [&](auto to, auto& c) { heed::convert(x->cview(), to, c); }, [&] { return hash_of(o); });
          }};
}

// To 8 bits and back
inline random_call quantize_call(std::uint32_t seed) {
  random_numbers random(seed);
  const shape s = random_shape(random, true);
  const auto x = std::make_shared<const buffer<float>>(random_input<float>(random, {s.batch, s.heads, s.keys, s.dim}));
  return {"quantize and dequantize", [x](const place& at) {
            fuse f;
            auto [b, h, n, d] = x->size();
            const auto q8 = buffer<std::int8_t>::output(x->size());
            const auto scale = buffer<float>::output({b, h, n, 1}), o = buffer<float>::output(x->size());
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::plan_convert(x->cview(), to, c); },
                [&](auto to, auto& c) {
                  heed::quantize(x->cview(), q8.view(), scale.view3(), c);
                  heed::dequantize(q8.cview(), scale.view3(), to, c);
                },
                [&] { return hash_of(q8, scale, o); });
          }};
}

// Attention over two halves of the keys, merged
template <class T> random_call merge_call(std::uint32_t seed) {
  random_numbers random(seed);
  const shape s = random_shape(random, false);
  struct inputs {
    buffer<T> q, k, v;
    extents rows;
  };
  const auto x =
      std::make_shared<const inputs>(inputs{random_input<T>(random, {s.batch, s.heads, s.queries, s.dim}),
                                            random_input<T>(random, {s.batch, s.kv_heads, s.keys, s.dim}),
                                            random_input<T>(random, {s.batch, s.kv_heads, s.keys, s.value_dim}),
                                            {s.batch, s.out_heads(), s.queries, s.value_dim}});
  return {
      "merge of two halves", [x](const place& at) {
        fuse f;
        const extents one{x->rows[0], x->rows[1], x->rows[2], 1};
        const auto o = buffer<T>::output(x->rows), part = buffer<T>::output(x->rows);
        const auto lse = buffer<T>::output(one), part_lse = buffer<T>::output(one);
        const index_t half = x->k.size()[2] / 2, rest = x->k.size()[2] - half;
        const auto keys = [&](index_t first, index_t n) { return heed::slice(x->k.cview(), 2, first, n); };
        const auto values = [&](index_t first, index_t n) { return heed::slice(x->v.cview(), 2, first, n); };
        const auto q = x->q.cview();
        return run_verb(
            at, o, f,
            [&](auto to, auto& c) { return heed::softmax::plan_forward(q, keys(0, half), values(0, half), to, {}, c); },
            [&](auto to, auto& c) {
              heed::softmax::forward(q, keys(0, half), values(0, half), to, {.lse = lse.view3()}, c);
              heed::softmax::forward(q, keys(half, rest), values(half, rest), part.view(), {.lse = part_lse.view3()},
                                     {.executor = c.executor});
              heed::softmax::merge(to, lse.view3(), part.cview(), part_lse.view3());
            },
            [&] { return hash_of(o, lse); });
      }};
}

#endif

}  // namespace heed_test
