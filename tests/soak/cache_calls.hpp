// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Random calls of decode with caches of each kind: caches that all threads read, and caches that live within a run.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "heed/cache.hpp"
#include "soak/pairwise_calls.hpp"

namespace heed_test {

template <class C> using token_type = std::conditional_t<std::is_same_v<C, double>, double, float>;

// A cache of sequences of unlike lengths, made from the shape and a number
template <class C> struct contiguous_maker {
  using cache = heed::cache::contiguous<C>;
  static constexpr const char* name = "contiguous";
  static cache make(const shape& s) { return cache(s.batch, s.kv_heads, s.keys + 40, s.dim, s.value_dim); }
};
template <class C> struct ring_maker {
  using cache = heed::cache::ring<C>;
  static constexpr const char* name = "ring";
  static cache make(const shape& s) {
    const index_t rows = s.keys / 2 + 8;
    return cache(s.batch, s.kv_heads, rows, s.dim, s.value_dim, std::min<index_t>(4, rows - 1));
  }
};
template <class C> struct paged_maker {
  using cache = heed::cache::paged<C>;
  static constexpr const char* name = "paged";
  static cache make(const shape& s) {
    return cache(s.batch * (s.keys / 8 + 8), 8, s.kv_heads, s.dim, s.value_dim, s.batch);
  }
};

template <class Cache>
void append_random(random_numbers& random, const shape& s, Cache& cache, index_t sequence, index_t tokens) {
  using token = token_type<std::remove_const_t<std::remove_reference_t<decltype(cache.view().k(0, 0, 0, 0))>>>;
  const auto k = random_input<token>(random, {1, s.kv_heads, tokens, s.dim}),
             v = random_input<token>(random, {1, s.kv_heads, tokens, s.value_dim});
  cache.append(sequence, k.cview(), v.cview());
}

// Q: element type of q and o
template <class Maker, class Q> struct decode_inputs {
  using acc = heed::detail::acc_t<Q>;

  random_numbers random;
  shape s;
  random_scores scores;
  buffer<Q> q;
  buffer<acc> gates;
  layout to;
  typename Maker::cache cache;

  decode_inputs(std::uint32_t seed, bool divides)
      : random(seed),
        s(random_shape(random, divides)),
        scores(random),
        q(queries()),
        gates(random_input<acc>(random, {s.batch, s.out_heads(), s.queries, 1})),
        to(output_layout(random)),
        cache(Maker::make(s)) {
    gates.each([](acc& g) { g = g < 0 ? 0 : g; });
    for (index_t b = 0; b < s.batch; ++b)
      append_random(random, s, cache, b, s.keys - random.below(static_cast<std::int32_t>(s.keys)));
  }
  buffer<Q> queries() {
    s.queries = any_of(random, {1, 1, 2, 5, 17});
    return random_input<Q>(random, {s.batch, s.heads, s.queries, s.dim});
  }
  extents rows(index_t columns) const { return {s.batch, s.out_heads(), s.queries, columns}; }
  std::string name(const char* verb) const {
    return std::string(verb) + ", " + Maker::name + ", q of " + type_name<Q>() + " " + to_string(s);
  }
};

template <class Maker, class Q> random_call softmax_decode(std::uint32_t seed) {
  const auto x = std::make_shared<const decode_inputs<Maker, Q>>(seed, false);
  const bool prepared = seed % 3 == 0;
  return {x->name(prepared ? "softmax::prepare_decode" : "softmax::decode"), [x, prepared](const place& at) {
            using acc = heed::detail::acc_t<Q>;
            fuse f;
            const auto o = buffer<Q>::output(x->rows(x->s.value_dim), x->to);
            const auto lse = buffer<acc>::output(x->rows(1));
            heed::softmax::options<acc> opt;
            x->scores.template set<acc>(opt, f);
            opt.lse = lse.view3();
            const auto q = x->q.cview();
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::softmax::plan_decode(q, x->cache, to, opt, c); },
                [&](auto to, auto& c) {
                  if (!prepared) return heed::softmax::decode(q, x->cache, to, opt, c);
                  auto call = heed::softmax::prepare_decode(q, x->cache, to, opt, c);
                  call();
                  o.each([](Q& number) { number = Q(7.0f); });
                  call(q, to);
                },
                [&] { return hash_of(o, lse); });
          }};
}

#ifdef HEED_DISPATCH

template <class Maker, class Q> random_call mixture_decode(std::uint32_t seed) {
  const auto x = std::make_shared<const decode_inputs<Maker, Q>>(seed, true);
  return {x->name("mixture_of_head::decode"), [x](const place& at) {
            using acc = heed::detail::acc_t<Q>;
            fuse f;
            const auto o = buffer<Q>::output(x->rows(x->s.value_dim), x->to);
            heed::softmax::options<acc> opt;
            x->scores.template set<acc>(opt, f);
            const auto q = x->q.cview();
            const auto gates = x->gates.view3();
            return run_verb(
                at, o, f,
                [&](auto to, auto& c) { return heed::mixture_of_head::plan_decode(q, x->cache, gates, to, opt, c); },
                [&](auto to, auto& c) { heed::mixture_of_head::decode(q, x->cache, gates, to, opt, c); },
                [&] { return hash_of(o); });
          }};
}

template <class Maker, class Q> random_call local_linear_decode(std::uint32_t seed) {
  const auto x = std::make_shared<const decode_inputs<Maker, Q>>(seed, false);
  return {x->name("local_linear::decode"), [x](const place& at) {
            using acc = heed::detail::acc_t<Q>;
            fuse f;
            const auto o = buffer<Q>::output(x->rows(x->s.value_dim), x->to);
            heed::local_linear::report report;
            heed::local_linear::options<acc> opt;
            x->scores.template set<acc>(opt, f);
            opt.tolerance = 1e-4, opt.report = &report;
            const auto q = x->q.cview();
            return run_verb(
                at, o, f,
                [&](auto to, auto& c) { return heed::local_linear::plan_decode(q, x->cache, 0.5, to, opt, c); },
                [&](auto to, auto& c) { heed::local_linear::decode(q, x->cache, 0.5, to, opt, c); },
                [&] { return hash_of(o); });
          }};
}

// Two sequences behind one prompt
template <class Q> random_call prefix_decode(std::uint32_t seed) {
  struct caches {
    decode_inputs<paged_maker<Q>, Q> x;
    heed::cache::contiguous<Q> prompt;
    explicit caches(std::uint32_t from) : x(from, false), prompt(1, x.s.kv_heads, 150, x.s.dim, x.s.value_dim) {
      append_random(x.random, x.s, prompt, 0, 150);
    }
  };
  const auto x = std::make_shared<const caches>(seed);
  return {x->x.name("softmax::decode, shared prefix"), [x](const place& at) {
            fuse f;
            const auto o = buffer<Q>::output(x->x.rows(x->x.s.value_dim), x->x.to);
            const auto q = x->x.q.cview();
            const auto cache = heed::shared_prefix(x->prompt, x->x.cache);
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::softmax::plan_decode(q, cache, to, {}, c); },
                [&](auto to, auto& c) { heed::softmax::decode(q, cache, to, {}, c); }, [&] { return hash_of(o); });
          }};
}

#endif

// A cache that is made, filled, read, truncated, forked, refused tokens, and read again, all in a run
template <class Maker, class Q> random_call cache_life(std::uint32_t seed) {
  const auto x = std::make_shared<const decode_inputs<Maker, Q>>(seed, false);
  return {x->name("the life of a cache"), [x, seed](const place& at) {
            using acc = heed::detail::acc_t<Q>;
            fuse f;
            random_numbers random(seed + 1);
            shape s = x->s;
            s.batch = 2;
            auto cache = Maker::make(s);
            const auto q = random_input<Q>(random, {2, s.heads, s.queries, s.dim});
            const auto first = buffer<Q>::output({2, s.out_heads(), s.queries, s.value_dim});
            const auto o = buffer<Q>::output(first.size(), x->to);
            append_random(random, s, cache, 0, std::min<index_t>(s.keys, 40));
            heed::softmax::options<acc> opt;
            x->scores.template set<acc>(opt, f);
            if (at.how == manner::wrong_shape) s.dim += 8;
            return run_verb(
                at, o, f, [&](auto to, auto& c) { return heed::softmax::plan_decode(q.cview(), cache, to, opt, c); },
                [&](auto to, auto& c) {
                  append_random(random, s, cache, 1, 3);  // refused where the shape is wrong
                  heed::softmax::decode(q.cview(), cache, first.view(), {}, {.executor = c.executor});
                  cache.truncate(0, cache.length(0) - 1);
                  cache.fork(0, 1);
                  append_random(random, s, cache, 1, 5);
                  heed::softmax::decode(q.cview(), cache, to, opt, c);
                },
                [&] { return hash_of(first, o); });
          }};
}

}  // namespace heed_test
