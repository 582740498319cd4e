// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Random calls of softmax, sparse query, mixture of head and local linear attention without a cache.

#include <memory>
#include <string>
#include <vector>

#include "heed/softmax.hpp"
#include "soak/calls.hpp"
#ifdef HEED_DISPATCH
#include "heed/local_linear.hpp"
#include "heed/mixture_of_head.hpp"
#endif

namespace heed_test {

// Options that softmax and local linear attention share
struct random_scores {
  int mask, score;
  bool softcap, alibi;

  explicit random_scores(random_numbers& random)
      : mask(random.below(5)), score(random.below(3)), softcap(random.below(4) == 0), alibi(random.below(4) == 0) {}

  // Functions burn the fuse.
  template <class acc, class Options> void set(Options& opt, fuse& f) const {
    if (mask == 1) opt.mask = heed::causal();
    if (mask == 2) opt.mask = heed::window(20, 5, 2);
    if (mask == 3)
      opt.mask = heed::causal() & heed::visible_if([&f](const heed::position& at) {
                   f.burn();
                   return (at.place - at.key) % 3 != 1;
                 });
    if (softcap) opt.softcap = 5;
    if (alibi) opt.alibi_slopes = 0.125;
    if (score == 1)
      opt.score = heed::score_function<acc>(
          [&f](acc x, const heed::position&) {
            f.burn();
            return x * acc(0.75);
          },
          [](acc, const heed::position&) { return acc(0.75); });
  }
};

template <class T> struct pairwise_inputs {
  using acc = heed::detail::acc_t<T>;

  random_numbers random;
  shape s;
  random_scores scores;
  bool biased, sink;
  std::vector<std::int32_t> held;  // of each sequence, where scores.mask is 4
  buffer<T> q, k, v;
  buffer<acc> bias;
  layout to;

  pairwise_inputs(std::uint32_t seed, bool divides)
      : random(seed),
        s(random_shape(random, divides)),
        scores(random),
        biased(random.below(3) == 0),
        sink(random.below(3) == 0),
        held(static_cast<std::size_t>(s.batch)),
        q(random_input<T>(random, {s.batch, s.heads, s.queries, s.dim})),
        k(random_input<T>(random, {s.batch, s.kv_heads, s.keys, s.dim})),
        v(random_input<T>(random, {s.batch, s.kv_heads, s.keys, s.value_dim})),
        bias(random_input<acc>(random, {1, random.below(2) == 0 ? 1 : s.out_heads(), s.queries, s.keys})),
        to(output_layout(random)) {
    for (std::int32_t& n : held) n = random.below(static_cast<std::int32_t>(s.keys) + 1);
  }
  template <class Options> Options options(fuse& f) const {
    Options opt;
    scores.set<acc>(opt, f);
    if (scores.mask == 4) opt.mask = heed::key_lengths(held);
    if (biased) opt.bias = bias.cview();
    if constexpr (requires { opt.sink_logits; })
      if (sink) opt.sink_logits = 0.25;
    return opt;
  }
  extents rows(index_t columns) const { return {s.batch, s.out_heads(), s.queries, columns}; }
  buffer<T> output() const { return buffer<T>::output(rows(s.value_dim), to); }
  buffer<acc> row_numbers() const { return buffer<acc>::output(rows(1)); }
  std::string name(const char* verb) const { return std::string(verb) + " " + type_name<T>() + " " + to_string(s); }
};

template <class T> random_call softmax_forward(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const pairwise_inputs<T>>(seed, false);
  return {x->name("softmax::forward"), [x](const place& at) {
            fuse f;
            const auto o = x->output();
            const auto lse = x->row_numbers();
            auto opt = x->template options<heed::softmax::options<acc>>(f);
            opt.lse = lse.view3();
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::softmax::plan_forward(q, k, v, to, opt, c); },
                [&](auto to, auto& c) { heed::softmax::forward(q, k, v, to, opt, c); },
                [&] { return hash_of(o, lse); });
          }};
}

// The first run writes what the second one must write again.
template <class T> random_call softmax_prepared(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const pairwise_inputs<T>>(seed, false);
  return {x->name("softmax::prepare"), [x](const place& at) {
            fuse f;
            const auto o = x->output();
            const auto opt = x->template options<heed::softmax::options<acc>>(f);
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::softmax::plan_forward(q, k, v, to, opt, c); },
                [&](auto to, auto& c) {
                  auto call = heed::softmax::prepare(q, k, v, to, opt, c);
                  call();
                  o.each([](T& number) { number = T(7.0f); });
                  call(q, k, v, to);
                },
                [&] { return hash_of(o); });
          }};
}

#ifdef HEED_DISPATCH

// What forward wrote, for backward
template <class T> struct backward_inputs : pairwise_inputs<T> {
  using acc = heed::detail::acc_t<T>;
  buffer<T> o, dout;
  buffer<acc> lse, gates;

  backward_inputs(std::uint32_t seed, bool divides)
      : pairwise_inputs<T>(seed, divides),
        o(this->output()),
        dout(random_input<T>(this->random, this->rows(this->s.value_dim))),
        lse(this->row_numbers()),
        gates(random_input<acc>(this->random, this->rows(1))) {
    gates.each([](acc& g) { g = g < 0 ? 0 : g; });
  }
};

template <class T> random_call softmax_backward(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<backward_inputs<T>>(seed, false);
  fuse none;
  auto how = x->template options<heed::softmax::options<acc>>(none);
  how.lse = x->lse.view3();
  heed::softmax::forward(x->q.cview(), x->k.cview(), x->v.cview(), x->o.view(), how);
  return {x->name("softmax::backward"), [x](const place& at) {
            fuse f;
            auto opt = x->template options<heed::softmax::options<acc>>(f);
            opt.lse = x->lse.view3();
            const auto dq = buffer<acc>::output(x->q.size(), x->to), dk = buffer<acc>::output(x->k.size()),
                       dv = buffer<acc>::output(x->v.size()), dbias = buffer<acc>::output(x->bias.size());
            heed::softmax::gradients<acc> to{.dk = dk.view(), .dv = dv.view()};
            if (x->biased) to.dbias = dbias.view();
            const auto wanted = [&](auto view) { return to.dq = view, to; };
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            const auto o = x->o.cview(), dout = x->dout.cview();
            return run_verb(
                at, dq, f,
                [&](auto g, auto& c) { return heed::softmax::plan_backward(q, k, v, o, dout, wanted(g), opt, c); },
                [&](auto g, auto& c) { heed::softmax::backward(q, k, v, o, dout, wanted(g), opt, c); },
                [&] { return hash_of(dq, dk, dv, dbias); });
          }};
}

template <class T> random_call mixture_forward(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const backward_inputs<T>>(seed, true);
  return {x->name("mixture_of_head::forward"), [x](const place& at) {
            fuse f;
            const auto o = x->output();
            const auto opt = x->template options<heed::softmax::options<acc>>(f);
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            const auto g = x->gates.view3();
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::mixture_of_head::plan_forward(q, k, v, g, to, opt, c); },
                [&](auto to, auto& c) { heed::mixture_of_head::forward(q, k, v, g, to, opt, c); },
                [&] { return hash_of(o); });
          }};
}

template <class T> random_call mixture_backward(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<backward_inputs<T>>(seed, true);
  fuse none;
  const auto how = x->template options<heed::softmax::options<acc>>(none);
  heed::mixture_of_head::forward(x->q.cview(), x->k.cview(), x->v.cview(), x->gates.view3(), x->o.view(), how);
  return {x->name("mixture_of_head::backward"), [x](const place& at) {
            fuse f;
            const auto opt = x->template options<heed::softmax::options<acc>>(f);
            const auto dq = buffer<acc>::output(x->q.size(), x->to), dk = buffer<acc>::output(x->k.size()),
                       dv = buffer<acc>::output(x->v.size()), dgates = buffer<acc>::output(x->gates.size());
            const auto wanted = [&](auto view) {
              return heed::mixture_of_head::gradients<acc>{
                  .dq = view, .dk = dk.view(), .dv = dv.view(), .dgates = dgates.view3()};
            };
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            const auto o = x->o.cview(), dout = x->dout.cview();
            const auto gates = x->gates.view3();
            return run_verb(
                at, dq, f,
                [&](auto g, auto& c) {
                  return heed::mixture_of_head::plan_backward(q, k, v, gates, o, dout, wanted(g), opt, c);
                },
                [&](auto g, auto& c) { heed::mixture_of_head::backward(q, k, v, gates, o, dout, wanted(g), opt, c); },
                [&] { return hash_of(dq, dk, dv, dgates); });
          }};
}

// apply: slopes are inputs; else slopes are found
template <class T> random_call local_linear_forward(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const pairwise_inputs<T>>(seed, false);
  const bool apply = seed % 3 == 0;
  random_numbers random(seed + 1);
  const auto slope = std::make_shared<const buffer<acc>>(random_input<acc>(random, x->rows(x->s.dim), 0.1));
  return {x->name(apply ? "local_linear::apply" : "local_linear::forward"), [x, slope, apply](const place& at) {
            fuse f;
            const auto o = x->output();
            const auto lse = x->row_numbers();
            const auto found = buffer<acc>::output(x->rows(x->s.dim));
            heed::local_linear::report report;
            auto opt = x->template options<heed::local_linear::options<acc>>(f);
            opt.lse = lse.view3(), opt.tolerance = 1e-4, opt.report = &report;
            if (!apply) opt.slope = found.view();
            const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview();
            return run_verb(
                at, o, f,
                [&](auto to, auto& c) {
                  return apply ? heed::local_linear::plan_apply(q, k, v, slope->cview(), to, opt, c)
                               : heed::local_linear::plan_forward(q, k, v, 0.5, to, opt, c);
                },
                [&](auto to, auto& c) {
                  if (apply)
                    heed::local_linear::apply(q, k, v, slope->cview(), to, opt, c);
                  else
                    heed::local_linear::forward(q, k, v, 0.5, to, opt, c);
                },
                [&] { return hash_of(o, lse, found); });
          }};
}

template <class T> random_call local_linear_backward(std::uint32_t seed) {
  using acc = heed::detail::acc_t<T>;
  const auto x = std::make_shared<const backward_inputs<T>>(seed, false);
  return {
      x->name("local_linear::backward"), [x](const place& at) {
        fuse f;
        heed::local_linear::report report;
        auto opt = x->template options<heed::local_linear::options<acc>>(f);
        opt.tolerance = 1e-4, opt.report = &report;
        const auto dq = buffer<acc>::output(x->q.size(), x->to), dk = buffer<acc>::output(x->k.size()),
                   dv = buffer<acc>::output(x->v.size());
        const auto wanted = [&](auto view) {
          return heed::local_linear::gradients<acc>{.dq = view, .dk = dk.view(), .dv = dv.view()};
        };
        const auto q = x->q.cview(), k = x->k.cview(), v = x->v.cview(), dout = x->dout.cview();
        return run_verb(
            at, dq, f,
            [&](auto g, auto& c) { return heed::local_linear::plan_backward(q, k, v, 0.5, dout, wanted(g), opt, c); },
            [&](auto g, auto& c) { heed::local_linear::backward(q, k, v, 0.5, dout, wanted(g), opt, c); },
            [&] { return hash_of(dq, dk, dv); });
      }};
}

#endif

}  // namespace heed_test
