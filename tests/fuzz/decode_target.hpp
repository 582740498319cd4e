// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A call of decode out of bytes, with a cache of any kind and storage type.

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "fuzz/numbers.hpp"
#include "fuzz/pairwise_options.hpp"
#include "fuzz/place.hpp"
#include "fuzz/views.hpp"
#include "support/decode_case.hpp"

namespace heed_test {

inline decode_problem read_decode(bytes& in) {
  decode_problem p;
  const auto [heads, kv_heads] =
      in.of<std::pair<index_t, index_t>>({{1, 1}, {2, 1}, {1, 2}, {4, 2}, {8, 1}, {3, 3}, {0, 0}, {0, 2}, {6, 2}});
  p.heads = heads, p.kv_heads = kv_heads;
  p.queries = in.of<index_t>({1, 1, 1, 2, 4, 0, 17});
  if (in.one_in(20)) p.queries = in.tokens();
  p.dim = in.dim(), p.value_dim = in.one_in(2) ? p.dim : in.dim();
  p.per_head = kv_heads > 0 && in.one_in(5);
  const index_t batch = in.of<index_t>({1, 1, 2, 3, 0});
  p.lengths.clear();
  for (index_t i = 0; i < batch * (p.per_head ? kv_heads : 1); ++i)
    p.lengths.push_back(static_cast<std::int32_t>(in.one_in(40) ? 3 * in.tokens() : in.tokens()));
  p.cache.kind = in.of({cache_kind::contiguous, cache_kind::ring, cache_kind::paged});
  if (kv_heads == 0 && p.cache.kind == cache_kind::paged)
    p.cache.kind = cache_kind::contiguous;  // no pages are numbered
  p.cache.keep_first = p.cache.kind == cache_kind::ring ? in.of<index_t>({0, 0, 1, 4}) : 0;
  p.cache.capacity = p.cache.keep_first + 1 + in.tokens();
  p.cache.page = in.of<index_t>({16, 1, 2, 7, 64});
  p.cache.shared = in.one_in(3);
  p.cache.in = in.of({layout::bhsd, layout::bshd});
  p.stored_kv = in.of({kept::f32, kept::bf16, kept::f16, kept::i8});
  p.stored_q = in.of({stored::f32, stored::f32, stored::bf16, stored::f16});
  p.stored_o = in.of({stored::f32, stored::f32, stored::bf16, stored::f16});
  tell(to_string(p));
  return p;
}

// Breaks a cache such that decode must refuse it. Returns the word that names what is wrong, or nothing.
template <class C>
std::string break_cache(bytes& in, heed::kv_cache_view<C>& x, index_t batch, std::vector<std::int32_t>& lengths) {
  const index_t kind = in.below(6);
  if (kind == 0) return break_view(in, x.k, false), "k";
  if (kind == 1) return break_view(in, x.v, false), "v";
  if (kind == 2 && x.layout == heed::cache_layout::paged && !x.blocks.empty())
    return x.blocks = {x.blocks.data(), {x.blocks.extent(0) + 1, x.blocks.extent(1)}, x.blocks.strides()}, "blocks";
  if (kind == 3 && x.layout == heed::cache_layout::ring)
    return x.keep_first = in.of({index_t{-3}, x.k.extent(2) + 1}), "keep_first";
  if (kind == 4 && std::is_same_v<C, std::int8_t>) return break_view(in, x.k_scale, false), "k_scale";
  lengths.assign(static_cast<std::size_t>(batch) + 1, 0);
  return x.lengths = lengths, "lengths";
}

template <class T> class decode_target {
 public:
  decode_problem p;
  shape s;
  pairwise_options<T, heed::softmax::options<T>> options;
  decode_case<T> c;
  decode_call<T> call;
  std::string wrong;

  explicit decode_target(bytes& in) : decode_target(in, read_decode(in)) {}
  // prefix: how many tokens come before those of the cache
  decode_target(bytes& in, const decode_problem& problem, index_t prefix = 0)
      : p(problem),
        s(with_keys(p.as_shape(), prefix)),
        options(in, s, {.cached = true}),
        c(p, options.options, in.byte() + 1u),
        call(c.call()),
        prefix_(prefix) {
    if (in.one_in(5)) c.options.lse = {}, tell("no lse");
    spoil(in, "q", c.q, gentle);
    if (p.stored_kv != kept::i8) spoil(in, "keys", c.keys, gentle), spoil(in, "values", c.values, gentle);
    if (!p.cache.shared) c.write_all();
    if constexpr (!std::is_same_v<T, double>) c.stored_q.take(c.q);
    set_absurd_strides(in, call.q), set_absurd_strides(in, call.o), set_absurd_strides(in, c.options.lse);
    if (in.one_in(12)) break_something(in);
  }

  // Takes the keys of a shared prefix into account.
  void see_prefix(const buffer<double>& keys) {
    for (index_t h = 0; h < keys.size()[1]; ++h)
      prefix_norm_ = std::max(prefix_norm_, largest_norm(keys, 0, h, 0, keys.size()[2]));
  }

  std::uint64_t outputs() const {
    if constexpr (std::is_same_v<T, double>)
      return c.o.hash() ^ 3 * c.lse.hash();
    else
      return c.stored_o.hash() ^ 3 * c.lse.hash();
  }
  // Plans, runs and checks; gates: of mixture of head, or null
  template <class Plan, class Run>
  void check(bytes& in, const Plan& plan, const Run& run, const decode_gates<T>* gates, const any_cache<T>* prefix) {
    place at(in);
    const std::uint64_t before = c.hash();
    const bool ran = run_at(at, wrong, plan, run, [&] { return outputs(); });
    demand(c.hash() == before, "decode changes an input");
    demand(c.kept_canaries(), "decode writes outside o or lse");
    if (!ran) return;
    if constexpr (!std::is_same_v<T, double>) c.stored_o.copy_to(c.o);
    const std::uint64_t bits = outputs();
    const bool rounded = decode_rounds_weights(plan({}));
    if (rounded) round_queries(c.q);
    try {
      compare_ordinary(expected_of(c, c.options, gates, prefix), rounded, gates);
    } catch (const stop_calling&) {
      demand(gates != nullptr, "what the caller's function threw got lost");  // or its row has gate 0
    }
    if (!in.one_in(8)) return;
    test_executor others(in.between(1, 5), order::shuffled);
    run({.executor = others});
    demand(outputs() == bits, "bits of decode depend on the executor");
  }

 private:
  void break_something(bytes& in) {
    const index_t kind = in.below(6);
    if (kind == 0) break_view(in, call.q, false), wrong = "q|sequences";
    if (kind == 1) break_view(in, call.o, true), wrong = "o|sequences";
    if (kind == 2) {
      const auto lse = c.options.lse;
      options.break_one(in, s), wrong = options.wrong;
      c.options = options.options, c.options.lse = lse;
    }
    if (kind > 2) std::visit([&](auto& x) { wrong = break_cache(in, x, s.batch, lengths_); }, call.cache);
    if (!wrong.empty()) tell("wrong ", wrong);
  }

  void compare_ordinary(const decode_expected<T>& expected, bool rounded, const decode_gates<T>* gates) const {
    verdict result;
    tolerance allowed = tolerance_of<T>(s.keys, s.dim);
    allowed.weights = rounded ? rounded_weights : 0;
    const storage_rounding as_stored = std::is_same_v<T, double> ? storage_rounding{} : rounding_of(p.stored_o);
    const double most = !std::is_same_v<T, double> && p.stored_o == stored::f16 ? 6e4 : 1e30;
    const double scale = std::abs(c.options.scale.value_or(1 / std::sqrt(static_cast<double>(s.dim))));
    const double least = 4 * static_cast<double>(std::numeric_limits<T>::min()) * static_cast<double>(s.keys + 1);
    bool finite = std::isfinite(prefix_norm_);  // else a key of -inf may hide itself
    const auto see = [&](const auto& x) { finite = finite && std::isfinite(x); };
    c.q.each(see), c.keys.each(see);
    const index_t heads = s.out_heads();
    const auto number = [](T x) { return static_cast<double>(x); };
    for (index_t r = 0; r < s.batch * heads * s.queries; ++r) {
      const index_t b = r / (heads * s.queries), h = r / s.queries % heads, i = r % s.queries;
      const row_size& size = expected.sizes[static_cast<std::size_t>(r)];
      tolerance here = allowed;
      const double product =
          scale * largest_norm(c.q, b, h / (heads / s.heads), i, 1) *
          std::max(largest_norm(c.keys, b, h / (heads / s.kv_heads), 0, s.keys - prefix_), prefix_norm_);
      here.c0 += 4 * product;
      const double gate = gates == nullptr ? 1 : std::abs(number((*gates)(b, h, i))),
                   lse = number(expected.lse(b, h, i));
      if (c.options.lse.data() != nullptr)
        result.add(number(c.lse(b, h, i)), lse, here.of_lse(size), "lse", b, h, i, 0);
      if (c.options.lse.data() != nullptr && lse == -HUGE_VAL && finite)
        demand(number(c.lse(b, h, i)) == lse, "the lse of a row that sees nothing is not -inf");
      if (std::isnan(lse)) {
        for (index_t e = 0; e < s.value_dim; ++e)
          demand(!std::isfinite(number(c.o(b, h, i, e))), "a NaN does not reach o");
        continue;
      }
      for (index_t e = 0; e < s.value_dim; ++e) {
        const double x = expected.o(b, h, i, e);
        if (std::isinf(x) || std::abs(x) >= most || !std::isfinite(gate)) continue;
        result.add(number(c.o(b, h, i, e)), x, as_stored.around(x, gate * here.of_output(size) + least), "o", b, h, i,
                   e);
      }
    }
    demand(result.worst <= 1, result.where);
  }
  // The largest |row| of those that are finite
  template <class E>
  static double largest_norm(const buffer<E>& x, index_t b, index_t h, index_t first, index_t count) {
    double largest = 0;
    for (index_t i = first; i < first + count; ++i) {
      double sum = 0;
      for (index_t d = 0; d < x.size()[3]; ++d) sum += std::pow(static_cast<double>(x(b, h, i, d)), 2);
      largest = std::isfinite(sum) ? std::max(largest, sum) : largest;
    }
    return std::sqrt(largest);
  }

  static shape with_keys(shape x, index_t more) {
    x.keys += more;
    return x;
  }

  index_t prefix_;
  double prefix_norm_ = 0;
  std::vector<std::int32_t> lengths_;
};

}  // namespace heed_test
