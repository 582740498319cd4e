// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of owning caches against a plain model, and of softmax::prepare_decode while a cache grows.

#include <algorithm>
#include <string>
#include <vector>

#include "fuzz/place.hpp"
#include "fuzz/target.hpp"
#include "heed/cache.hpp"
#include "heed/softmax.hpp"
#include "support/buffer.hpp"
#include "support/cache_model.hpp"

namespace heed_test {

using heed::cache::lengths_per;

// Calls on a cache and on its model. The view is made once.
template <class T, class Cache> class cache_walk {
  static constexpr bool is_paged = requires(const Cache& c) { c.free_pages(); };

 public:
  cache_walk(Cache& c, cache_model& m, bool per_head) : cache_(c), model_(m), view_(c.view()), per_head_(per_head) {}

  void step(bytes& in) {
    const index_t kind = in.below(9), b = in.between(-1, model_.batch);
    const bool known = b >= 0 && b < model_.batch;
    if (kind == 0) {
      append(in, 0, model_.batch, 0, model_.heads);
    } else if (kind < 4 && known) {
      append(in, b, 1, 0, model_.heads);
    } else if (kind == 4 && known && per_head_) {
      append(in, b, 1, in.below(model_.heads), 1);
    } else if (kind == 5) {
      truncate(in, b);
    } else if (kind == 6) {
      fork(b, in.between(-1, model_.batch));
    } else if (kind == 7) {
      tell("release ", b);
      refused(known, [&] { cache_.release(b); });
      for (index_t h = 0; known && h < model_.heads; ++h) model_.truncate(b, h, 0);
      if constexpr (is_paged)
        if (known) model_.truncate_pages(b, 0);
    } else if (kind == 8 && in.one_in(4)) {
      tell("reset");
      cache_.reset();
      for (index_t i = 0; i < model_.batch * model_.heads; ++i) {
        model_.truncate(i / model_.heads, i % model_.heads, 0);
        if constexpr (is_paged) model_.truncate_pages(i / model_.heads, 0);
      }
    }
  }
  void check() const {
    demand(model_.is(view_), "a view made before differs from the model");
    demand(model_.is(cache_.view()), "the cache differs from the model");
    if constexpr (is_paged)
      demand(cache_.free_pages() == cache_.pages() - model_.used_pages(), "pages are lost, or used twice");
  }

 private:
  template <class F> void refused(bool fits, const F& call) {
    const std::string error = thrown_by(call);
    demand(error.empty() == fits,
           fits ? "a call that fits is refused: " + error : "a call is accepted that does not fit");
    if (!fits) check();  // nothing has changed
  }
  bool has_room(index_t b, index_t count, index_t h, index_t heads, index_t n) const {
    if constexpr (is_paged) {
      cache_model after = model_;
      for (index_t i = b; i < b + count; ++i) after.append_pages(i, n);
      return after.used_pages() <= cache_.pages();
    }
    for (index_t i = b; i < b + count; ++i)
      for (index_t j = h; j < h + heads; ++j)
        if (model_.layout != heed::cache_layout::ring && model_.length(i, j) + n > model_.rows) return false;
    return true;
  }
  void append(bytes& in, index_t b, index_t count, index_t h, index_t heads) {
    const index_t n = in.one_in(5) ? in.below(40) : in.below(4);
    std::vector<int> tokens(static_cast<std::size_t>(count * n));
    for (int& each : tokens) each = next_++;
    const bool fits = has_room(b, count, h, heads, n);
    tell("append ", n, " tokens to sequences from ", b, ", ", count, " of them, heads from ", h,
         fits ? "" : ": no room");
    const token_rows_of x(tokens, count, heads, h);
    refused(fits, [&] {
      if constexpr (!is_paged)
        if (heads < model_.heads) return cache_.append(b, h, x.keys(), x.values());
      if (count == model_.batch && b == 0)
        cache_.append(x.keys(), x.values());
      else
        cache_.append(b, x.keys(), x.values());
    });
    if (!fits) return;
    if constexpr (is_paged)
      for (index_t i = b; i < b + count; ++i) model_.append_pages(i, n);
    for (index_t i = 0; i < count * n; ++i)
      for (index_t j = h; j < h + heads; ++j) model_.append(b + i / n, j, tokens[static_cast<std::size_t>(i)]);
  }
  void truncate(bytes& in, index_t b) {
    const bool known = b >= 0 && b < model_.batch;
    index_t shortest = known ? model_.length(b, 0) : 0;
    for (index_t h = 0; known && h < model_.heads; ++h) shortest = std::min(shortest, model_.length(b, h));
    const index_t n = in.one_in(6) ? shortest + 1 : in.one_in(6) ? -1 : in.below(shortest + 1);
    tell("truncate ", b, " to ", n);
    const bool fits = known && n >= 0 && n <= shortest;
    refused(fits, [&] { cache_.truncate(b, n); });
    for (index_t h = 0; fits && h < model_.heads; ++h) model_.truncate(b, h, n);
    if constexpr (is_paged)
      if (fits) model_.truncate_pages(b, n);
  }
  void fork(index_t from, index_t to) {
    const auto known = [&](index_t b) { return b >= 0 && b < model_.batch; };
    const bool fits = known(from) && known(to) && from != to;
    tell("fork ", from, " ", to);
    refused(fits, [&] { cache_.fork(from, to); });
    if (fits) model_.fork(from, to);
  }

  Cache& cache_;
  cache_model& model_;
  heed::kv_cache_view<T> view_;
  bool per_head_;
  int next_ = 0;
};

template <class T> static void walk(bytes& in) {
  const index_t kind = in.below(3), batch = in.between(1, 3), heads = in.between(1, 3);
  const index_t steps = in.between(1, 40);
  const auto go = [&](auto& cache, cache_model& model, bool per_head) {
    cache_walk<T, std::decay_t<decltype(cache)>> w(cache, model, per_head);
    for (index_t i = 0; i < steps; ++i) w.step(in);
    w.check();
  };
  if (kind == 2) {
    const index_t page = in.of<index_t>({4, 1, 2, 7, 16}), pages = in.below(14);
    tell("paged: ", pages, " pages of ", page, ", sequences ", batch, ", heads ", heads);
    heed::cache::paged<T> cache(pages, page, heads, model_dim, model_value_dim, batch);
    cache_model model(batch, heads, page, heed::cache_layout::paged);
    return go(cache, model, false);
  }
  const bool per_head = in.one_in(3);
  const auto per = per_head ? lengths_per::kv_head : lengths_per::sequence;
  const index_t rows = in.below(30), keep = kind == 1 && rows > 0 ? in.below(std::min<index_t>(rows, 5)) : 0;
  tell(kind == 0 ? "contiguous: " : "ring: ", rows, " rows, kept ", keep, ", sequences ", batch, ", heads ", heads,
       per_head ? ", lengths per head" : "");
  if (kind == 0) {
    heed::cache::contiguous<T> cache(batch, heads, rows, model_dim, model_value_dim, per);
    cache_model model(batch, heads, rows, heed::cache_layout::contiguous);
    return go(cache, model, per_head);
  }
  heed::cache::ring<T> cache(batch, heads, rows, model_dim, model_value_dim, keep, per);
  cache_model model(batch, heads, rows, heed::cache_layout::ring, keep);
  go(cache, model, per_head);
}
void fuzz_cache_append(bytes& in) {
  const index_t type = in.below(4);
  tell("cache of type ", type);
  if (type == 0) walk<float>(in);
  if (type == 1) walk<heed::bf16_t>(in);
  if (type == 2) walk<heed::f16_t>(in);
  if (type == 3) walk<std::int8_t>(in);
}

// Steps of a loop: tokens are appended, and a call that was prepared before has the bits of decode.
template <class T, class Cache> static void steps(bytes& in, Cache& cache, index_t heads, index_t queries) {
  const index_t batch = cache.sequences(), kv_heads = cache.kv_heads(), dim = cache.dim(), e = cache.value_dim();
  const index_t out_heads = std::max(heads, kv_heads);
  const auto q = buffer<float>::input({batch, heads, queries, dim});
  const auto o = buffer<float>::output({batch, out_heads, queries, e}), again = buffer<float>::output(o.size());
  random_numbers random(in.byte() + 1u);
  heed::softmax::options<float> options;
  if (in.flip()) options.mask = heed::causal();
  if (in.one_in(3)) options.alibi_slopes = 0.1;
  if (in.one_in(3)) options.sink_logits = 0.5;
  place at(in);
  const auto view = q.cview();
  const auto to = again.view();
  const heed::plan plan = heed::softmax::plan_decode(view, cache, to, options, at.plain());
  demand(plan.ok(), std::string("a call that fits is refused: ") + plan.problem.data());
  if (at.lacks_memory(plan.workspace_bytes)) return;
  auto prepared = heed::softmax::prepare_decode(view, cache, to, options, at.with(plan.workspace_bytes));
  const index_t count = in.between(1, 6);
  for (index_t step = 0; step < count; ++step) {
    const index_t n = in.between(0, 6);
    const auto k = buffer<float>::input({batch, kv_heads, n, dim}), v = buffer<float>::input({batch, kv_heads, n, e});
    q.each([&](float& x) { x = static_cast<float>(random.normal()); });
    k.each([&](float& x) { x = static_cast<float>(random.normal()); });
    v.each([&](float& x) { x = static_cast<float>(random.normal()); });
    if (!thrown_by([&] { cache.append(k.cview(), v.cview()); }).empty()) cache.reset();  // no room
    prepared();
    heed::softmax::decode(view, cache, o.view(), options);
    demand(same_bits(o, again), "a prepared decode has other bits than decode");
  }
  demand(at.kept() && o.canaries_alive() && again.canaries_alive(), "a prepared decode writes outside its memory");
}
template <class T> static void prepare(bytes& in) {
  const auto [heads, kv_heads] = in.of<std::pair<index_t, index_t>>({{1, 1}, {2, 1}, {1, 2}, {4, 2}, {8, 1}, {3, 3}});
  const index_t batch = in.of<index_t>({1, 2, 3}), queries = in.of<index_t>({1, 1, 2, 4, 9}), dim = in.dim(),
                e = in.dim(), kind = in.below(3);
  tell("batch ", batch, ", heads ", heads, " ", kv_heads, ", queries ", queries, ", dims ", dim, " ", e, ", kind ",
       kind);
  if (kind == 0) {
    heed::cache::contiguous<T> cache(batch, kv_heads, in.tokens(), dim, e);
    steps<T>(in, cache, heads, queries);
  } else if (kind == 1) {
    const index_t keep = in.below(3);
    heed::cache::ring<T> cache(batch, kv_heads, keep + 1 + in.tokens(), dim, e, keep);
    steps<T>(in, cache, heads, queries);
  } else {
    const index_t pages = in.below(20);
    heed::cache::paged<T> cache(pages, in.of<index_t>({4, 1, 16}), kv_heads, dim, e, batch);
    steps<T>(in, cache, heads, queries);
  }
}
void fuzz_softmax_prepare_decode(bytes& in) {
  const index_t type = in.below(4);
  tell("cache of type ", type);
  if (type == 0) prepare<float>(in);
  if (type == 1) prepare<heed::bf16_t>(in);
  if (type == 2) prepare<heed::f16_t>(in);
  if (type == 3) prepare<std::int8_t>(in);
}

}  // namespace heed_test
