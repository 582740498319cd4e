// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// One call of softmax::decode, or of mixture_of_head::decode, beside the reference.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "support/catch.hpp"
#include "support/comparison.hpp"
#include "support/decode_cache.hpp"
#include "support/shapes.hpp"
#include "support/tolerance.hpp"

namespace heed_test {

// What is decoded. With T = double the storage types do not count.
struct decode_problem {
  index_t heads = 1, kv_heads = 1, queries = 1, dim = 8, value_dim = 8;
  std::vector<std::int32_t> lengths = {1};  // one each sequence; with more than `batch`: (batch, kv_heads)
  cache_setup cache = {};
  kept stored_kv = kept::f32;
  stored stored_q = stored::f32, stored_o = stored::f32;
  bool per_head = false;  // lengths are (batch, kv_heads)

  index_t batch() const { return static_cast<index_t>(lengths.size()) / (per_head ? kv_heads : 1); }
  index_t longest() const { return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end()); }
  shape as_shape() const { return {batch(), heads, kv_heads, queries, longest(), dim, value_dim}; }
};

inline std::string to_string(const decode_problem& p) {
  std::string text = to_string(p.as_shape()) + ", lengths";
  for (const std::int32_t n : p.lengths) text += " " + std::to_string(n);
  return text + ", " + to_string(p.cache) + ", " + name_of(p.stored_q) + ", " + name_of(p.stored_kv) + " -> " +
         name_of(p.stored_o);
}

// The memory of a cache whose type is chosen at run time
template <class T> struct decode_memory {
  using type = std::variant<cache_memory<float>, cache_memory<heed::bf16_t>, cache_memory<heed::f16_t>,
                            cache_memory<std::int8_t>>;
  static type make(kept as, const cache_rows& at, index_t d, index_t e) {
    if (as == kept::bf16) return cache_memory<heed::bf16_t>(at, d, e);
    if (as == kept::f16) return cache_memory<heed::f16_t>(at, d, e);
    if (as == kept::i8) return cache_memory<std::int8_t>(at, d, e);
    return cache_memory<float>(at, d, e);
  }
};
template <> struct decode_memory<double> {
  using type = std::variant<cache_memory<double>>;
  static type make(kept, const cache_rows& at, index_t d, index_t e) { return cache_memory<double>(at, d, e); }
};

template <class T> struct decode_case {
  decode_problem p;
  shape s;
  cache_rows rows;
  buffer<T> q, o, lse;
  buffer<double> keys, values;  // (B, Hk, longest, D or E): all tokens, as they are or were stored
  typename decode_memory<T>::type memory;
  stored_buffer stored_q, stored_o;  // T = float: what the call reads and writes
  heed::softmax::options<T> options;

  explicit decode_case(const decode_problem& problem, const heed::softmax::options<T>& how = {}, std::uint32_t seed = 1)
      : p(problem),
        s(p.as_shape()),
        rows(s.batch, s.kv_heads, p.cache, p.lengths),
        q(buffer<T>::input({s.batch, s.heads, s.queries, s.dim})),
        o(buffer<T>::output({s.batch, s.out_heads(), s.queries, s.value_dim})),
        lse(buffer<T>::output({s.batch, s.out_heads(), s.queries, 1})),
        keys(buffer<double>::input({s.batch, s.kv_heads, s.keys, s.dim})),
        values(buffer<double>::input({s.batch, s.kv_heads, s.keys, s.value_dim})),
        memory(decode_memory<T>::make(p.stored_kv, rows, s.dim, s.value_dim)),
        stored_q(stored_buffer::input(p.stored_q, q.size(), layout::bhsd, 0)),
        stored_o(stored_buffer::output(p.stored_o, o.size(), layout::bhsd, 0)),
        options(how) {
    options.lse = lse.view3();
    random_numbers random(seed);
    q.randomize(random), keys.randomize(random), values.randomize(random);
    if (p.cache.shared) share();
    write_all();
    if constexpr (!std::is_same_v<T, double>) stored_q.take(q);
  }
  decode_case(const decode_case&) = delete;
  decode_case(decode_case&&) = default;

  // Puts a token of `keys` and `values` into its slot; they become what is stored.
  void write(index_t b, index_t h, index_t t, const cache_rows::slot& at) {
    std::vector<double> k(static_cast<std::size_t>(s.dim)), v(static_cast<std::size_t>(s.value_dim));
    for (index_t d = 0; d < s.dim; ++d) k[static_cast<std::size_t>(d)] = keys(b, h, t, d);
    for (index_t e = 0; e < s.value_dim; ++e) v[static_cast<std::size_t>(e)] = values(b, h, t, e);
    std::visit([&](auto& m) { m.write(at, h, k, v); }, memory);
    for (index_t d = 0; d < s.dim; ++d) keys(b, h, t, d) = k[static_cast<std::size_t>(d)];
    for (index_t e = 0; e < s.value_dim; ++e) values(b, h, t, e) = v[static_cast<std::size_t>(e)];
  }
  void write_all() {
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.kv_heads; ++h)
        rows.each(b, h, [&](index_t t, const cache_rows::slot& at) { write(b, h, t, at); });
  }
  // Fills K and V of tokens [first, end) of all sequences and heads with NaN or infinity.
  void spoil(index_t first, index_t end, float with) {
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.kv_heads; ++h)
        rows.each(b, h, [&](index_t t, const cache_rows::slot& at) {
          if (t >= first && t < end) std::visit([&](auto& m) { m.spoil(at, h, with); }, memory);
        });
  }

  any_cache<T> cache() const {
    return std::visit([&](const auto& m) { return any_cache<T>(m.view(rows)); }, memory);
  }
  std::uint64_t hash() const {
    return q.hash() ^ 3 * stored_q.hash() ^ std::visit([](const auto& m) { return m.hash(); }, memory);
  }
  decode_call<T> call() const {
    if constexpr (std::is_same_v<T, double>)
      return {q.cview(), cache(), o.view()};
    else
      return {stored_q.cview(), cache(), stored_o.view()};
  }
  // Runs run(call) on the numbers that the case has now, and reads what it writes.
  template <class Run> void run(const Run& run_call) {
    if constexpr (std::is_same_v<T, double>) {
      run_call(call());
    } else {
      stored_q.take(q), run_call(call()), stored_o.copy_to(o);
    }
  }
  void decode(const heed::context& ctx = {}) {
    run([&](const decode_call<T>& x) { run_decode<T>(x, options, ctx); });
  }
  heed::plan plan(const heed::context& ctx = {}) const { return plan_decode<T>(call(), options, ctx); }

  bool kept_canaries() const { return o.canaries_alive() && lse.canaries_alive() && stored_o.canaries_alive(); }
  bool filled() const {
    return all_written(o) && (std::is_same_v<T, double> || stored_o.all_written()) &&
           (options.lse.data() == nullptr || all_written(lse));
  }
  bool untouched() const {
    return lse.untouched() && (std::is_same_v<T, double> ? o.untouched() : stored_o.untouched());
  }

 private:
  // The pages that sequences share hold the tokens of the first.
  void share() {
    for (index_t b = 1; b < s.batch; ++b)
      for (index_t h = 0; h < s.kv_heads; ++h)
        for (index_t t = 0; t < s.keys; ++t) {
          if (rows.setup.kind != cache_kind::paged) continue;
          const auto number = static_cast<std::size_t>(t / rows.setup.page);
          if (rows.table[static_cast<std::size_t>(b * rows.blocks) + number] != rows.table[number]) continue;
          for (index_t d = 0; d < s.dim; ++d) keys(b, h, t, d) = keys(0, h, t, d);
          for (index_t e = 0; e < s.value_dim; ++e) values(b, h, t, e) = values(0, h, t, e);
        }
  }
};

// What the reference says: o and lse as buffers, the sizes of rows (b * H + h) * N + i
template <class T> struct decode_expected {
  buffer<double> o;
  buffer<T> lse;
  std::vector<row_size> sizes;
};
// Compiled once for all tests, in decode_expected.cpp. gates: none for softmax; prefix: a cache of one sequence whose
// tokens come first
template <class T>
decode_expected<T> expected_of(const decode_case<T>& x, const heed::softmax::options<T>& options,
                               const decode_gates<T>* gates = nullptr, const any_cache<T>* prefix = nullptr);

// Whether a plan is of a driver that rounds weights to bf16: one on a unit.
inline bool decode_rounds_weights(const heed::plan& plan) {
  return std::string(plan.path).find(" on ") != std::string::npos;
}

// Such a driver rounds q as well.
template <class T> void round_queries(buffer<T>& q) {
  q.each([](T& x) { x = static_cast<T>(static_cast<float>(heed::bf16_t(static_cast<float>(x)))); });
}

// A finished call beside what is expected, in units of the tolerance times the gate
template <class T>
verdict compare(const decode_case<T>& x, const decode_expected<T>& expected, bool rounded,
                const decode_gates<T>* gates = nullptr) {
  verdict result;
  tolerance allowed = tolerance_of<T>(x.s.keys, x.s.dim);
  allowed.weights = rounded ? rounded_weights : 0;
  const storage_rounding as_stored = std::is_same_v<T, double> ? storage_rounding{} : rounding_of(x.p.stored_o);
  const index_t heads = x.s.out_heads();
  for (index_t r = 0; r < x.s.batch * heads * x.s.queries; ++r) {
    const index_t b = r / (heads * x.s.queries), h = r / x.s.queries % heads, i = r % x.s.queries;
    const row_size& size = expected.sizes[static_cast<std::size_t>(r)];
    double unit = 1;
    if (gates != nullptr) {
      const double gate = std::abs(static_cast<double>((*gates)(b, h, i)));
      unit = std::max(std::isfinite(gate) ? gate : 0.0, static_cast<double>(std::numeric_limits<T>::min()));
    }
    for (index_t e = 0; e < x.s.value_dim; ++e)
      result.add(static_cast<double>(x.o(b, h, i, e)), expected.o(b, h, i, e),
                 as_stored.around(expected.o(b, h, i, e), unit * allowed.of_output(size)), "o", b, h, i, e);
    if (x.options.lse.data() == nullptr) continue;
    result.add(static_cast<double>(x.lse(b, h, i)), static_cast<double>(expected.lse(b, h, i)), allowed.of_lse(size),
               "lse", b, h, i, 0);
  }
  return result;
}

// What must hold of every call: the results as expected, inputs unchanged, o and lse and nothing else written
template <class T> void check(decode_case<T>& x, const heed::context& ctx = {}) {
  INFO(to_string(x.p));
  const heed::plan plan = x.plan(ctx);
  INFO(plan.path << "; " << plan.problem.data());
  if constexpr (!std::is_same_v<T, double>) x.stored_q.take(x.q);
  const std::uint64_t before = x.hash();
  x.decode(ctx);
  const bool unchanged = x.hash() == before, rounded = decode_rounds_weights(plan);
  if (rounded) round_queries(x.q);
  const verdict result = compare(x, expected_of(x, x.options), rounded);
  INFO(result.where);
  const bool canaries = x.kept_canaries(), filled = x.filled();
  CHECK(plan.ok());
  CHECK(result.worst <= 1);
  CHECK(unchanged);
  CHECK(canaries);
  CHECK(filled);
}
template <class T> void check_decode(const decode_problem& p, const heed::softmax::options<T>& options = {}) {
  decode_case<T> x(p, options);
  check(x);
}
template <class T> bool same_results(const decode_case<T>& a, const decode_case<T>& b) {
  return same_bits(a.o, b.o) && same_bits(a.lse, b.lse);
}

// Caches that hold the same tokens, `longest` of them at most, in other places
inline std::vector<cache_setup> whole_caches(index_t longest, index_t keep_first = 0) {
  return {{cache_kind::contiguous, longest},
          {cache_kind::contiguous, longest + 7, 0, 16, false, layout::bshd},
          {cache_kind::ring, longest + 3 + keep_first, keep_first},
          {cache_kind::paged, 0, 0, 1},
          {cache_kind::paged, 0, 0, 16},
          {cache_kind::paged, 0, 0, 100, false, layout::bshd}};
}
// One after the other: the same tokens, and fewer of them in rings that have wrapped, also in the middle of a tile
inline cache_setup some_cache(std::size_t turn, index_t longest) {
  std::vector<cache_setup> all = whole_caches(longest, static_cast<index_t>(turn) % 5);
  for (const index_t kept : {0, 4}) {
    const index_t rows = std::max<index_t>(longest - 9, longest / 2 + 1);
    const layout in = kept == 0 ? layout::bhsd : layout::bshd;
    all.push_back({cache_kind::ring, std::max(rows, kept + 1), kept, 16, false, in});
  }
  all.push_back({cache_kind::paged, 0, 0, 16, true});
  return all[turn % all.size()];
}

}  // namespace heed_test
