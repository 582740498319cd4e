// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of softmax::decode, with a shared prefix or without.

#include "fuzz/decode_target.hpp"
#include "fuzz/target.hpp"

namespace heed_test {

template <class T> static void decode(bytes& in) {
  decode_target<T> x(in);
  x.check(
      in, [&](const heed::context& ctx) { return plan_decode<T>(x.call, x.c.options, ctx); },
      [&](const heed::context& ctx) { run_decode<T>(x.call, x.c.options, ctx); }, nullptr, nullptr);
}
void fuzz_softmax_decode(bytes& in) {
  in_a_type(in, [&](auto x) { decode<decltype(x)>(in); });
}

// The prefix is a cache of one sequence of the same heads, dims and type.
void fuzz_softmax_shared_prefix(bytes& in) {
  decode_problem p = read_decode(in), first = p;
  p.stored_q = p.stored_o = stored::f32;
  first.per_head = false, first.lengths = {static_cast<std::int32_t>(in.tokens())};
  first.cache.kind = in.of({cache_kind::contiguous, cache_kind::paged, cache_kind::ring});
  if (p.kv_heads == 0) first.cache.kind = cache_kind::contiguous;
  first.cache.keep_first = 0, first.cache.shared = false;
  first.cache.capacity = std::max<index_t>(1, first.lengths[0] + in.below(3));
  tell("prefix ", to_string(first));
  const decode_case<float> prefix(first, {}, 7);
  decode_target<float> x(in, p, first.lengths[0]);
  x.see_prefix(prefix.keys);
  const any_cache<float> cache = prefix.cache();
  x.check(
      in, [&](const heed::context& ctx) { return plan_prefixed(x.call, cache, x.c.options, ctx); },
      [&](const heed::context& ctx) { run_prefixed(x.call, cache, x.c.options, ctx); }, nullptr, &cache);
}

}  // namespace heed_test
