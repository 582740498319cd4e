// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The terms of the score pipeline and the kinds of masks one by one, to be combined at will; for a whole call, or for
// one of its packed sequences as a call of its own.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "heed/core/factories.hpp"
#include "heed/softmax/options.hpp"
#include "support/random.hpp"
#include "support/shapes.hpp"

namespace heed_test {

// Sequences end to end: offsets of queries and keys.
struct packing {
  std::vector<std::int32_t> queries{0}, keys{0};

  void add(index_t n, index_t m) {
    queries.push_back(queries.back() + static_cast<std::int32_t>(n));
    keys.push_back(keys.back() + static_cast<std::int32_t>(m));
  }
  index_t count() const { return static_cast<index_t>(queries.size()) - 1; }
};

// What a call covers: all batch entries, or sequence `number` alone.
struct scope {
  index_t number = 0, sequences = 1, first_query = 0, queries = 0, first_key = 0, keys = 0;
};

enum class part_kind {
  softcap,
  alibi,
  bias,
  score,
  sink,
  align,
  causal,
  window,
  key_lengths,
  prefix,
  segments,
  keep,
  user
};

// Options: of softmax, or of a kernel with the same members but perhaps without sinks.
template <class T, class Options = heed::softmax::options<T>> class option_parts {
 public:
  using options = Options;
  struct part {
    std::string name;
    part_kind kind;
    std::function<void(options&, const scope&)> add;
    bool masks() const { return kind >= part_kind::causal; }
  };

  // With a packing, s has batch 1 and the sums of its lengths; or more keys.
  explicit option_parts(const shape& s, const packing* sequences = nullptr, std::uint32_t seed = 6)
      : s_(s), sequences_(sequences) {
    random_numbers random(seed);
    const index_t heads = s.out_heads(), pairs = s.queries * s.keys;
    fill(full_, random, s.batch * heads * pairs);
    fill(hiding_, random, heads * pairs);
    for (T& x : hiding_) x = random.uniform() < 0.3 ? -std::numeric_limits<T>::infinity() : x;
    fill(diagonal_, random, s.queries + s.keys + 1);
    fill(slopes_, random, heads), fill(sinks_, random, heads);
    for (T& x : slopes_) x = x < 0 ? -x / 20 : x / 20;
    const index_t count = sequences != nullptr ? sequences->count() : s.batch;
    for (index_t b = 0; b < count; ++b) {
      const scope one = sequences != nullptr ? alone(b) : whole();
      const auto n = static_cast<std::int32_t>(one.queries), m = static_cast<std::int32_t>(one.keys);
      lengths_.push_back(m - random.below(m / 2 + 1));
      prefix_.push_back(random.below(m + 1));
      first_.push_back(m - n + random.below(9) - 4);
    }
    for (index_t i = 0; i < s.batch * s.queries; ++i) query_ids_.push_back(random.below(3) - 1);
    for (index_t j = 0; j < s.batch * s.keys; ++j) key_ids_.push_back(random.below(3) - 1);
    const index_t visible = std::max(heads * pairs, s.batch * s.keys);
    visible_ = std::make_unique<bool[]>(static_cast<std::size_t>(visible + 1));
    for (index_t i = 0; i < visible; ++i) visible_[static_cast<std::size_t>(i)] = random.uniform() < 0.8;
    make(heads, pairs);
  }
  option_parts(const option_parts&) = delete;
  option_parts& operator=(const option_parts&) = delete;

  std::vector<part> all;

  scope whole() const { return {0, sequences_ != nullptr ? sequences_->count() : s_.batch, 0, s_.queries, 0, s_.keys}; }
  scope alone(index_t number) const {
    const auto n = static_cast<std::size_t>(number);
    const auto &q = sequences_->queries, &k = sequences_->keys;
    return {number, 1, q[n], q[n + 1] - q[n], k[n], k[n + 1] - k[n]};
  }
  options of(const std::vector<const part*>& chosen, const scope& at) const {
    options how;
    for (const part* p : chosen) p->add(how, at);
    return how;
  }

 private:
  template <class E> static void fill(std::vector<E>& x, random_numbers& random, index_t count) {
    for (index_t i = 0; i < count; ++i) x.push_back(static_cast<E>(random.normal()));
  }
  heed::lengths some(const std::vector<std::int32_t>& x, const scope& at) const {
    return heed::lengths(x).subspan(static_cast<std::size_t>(at.number), static_cast<std::size_t>(at.sequences));
  }
  // The pairs of the scope of a tensor of all pairs whose axes of stride 0 hold for every index
  template <class E> static heed::tensor_view<E, 4> cut(heed::tensor_view<E, 4> x, const scope& at) {
    if (x.extent(2) > 1) x = heed::slice(x, 2, at.first_query, at.queries);
    return x.extent(3) > 1 ? heed::slice(x, 3, at.first_key, at.keys) : x;
  }
  static void see(options& how, const heed::mask& more) { how.mask = how.mask & more; }

  void add(const char* name, part_kind kind, std::function<void(options&, const scope&)> f) {
    all.push_back({name, kind, std::move(f)});
  }
  void add_bias(const char* name, heed::tensor_view<const T, 4> x) {
    add(name, part_kind::bias, [x](options& how, const scope& at) { how.bias = cut(x, at); });
  }
  void add_keep(const char* name, heed::tensor_view<const bool, 4> x) {
    add(name, part_kind::keep, [x](options& how, const scope& at) { see(how, heed::keep(cut(x, at))); });
  }

  void make(index_t heads, index_t pairs) {
    using kind = part_kind;
    const index_t b = s_.batch, n = s_.queries, m = s_.keys;
    add("softcap", kind::softcap, [](options& how, const scope&) { how.softcap = 1.5; });
    add("alibi", kind::alibi, [this](options& how, const scope&) { how.alibi_slopes = slopes_; });
    add("one slope", kind::alibi, [](options& how, const scope&) { how.alibi_slopes = 0.1; });
    const T* const x = full_.data();
    add_bias("bias", {x, {b, heads, n, m}, {heads * pairs, pairs, m, 1}});
    add_bias("bias per row", {x, {1, heads, n, 1}, {0, n, 1, 0}});
    add_bias("bias per key", {x, {b, 1, 1, m}, {m, 0, 0, 1}});
    add_bias("bias per head", {x, {1, heads, 1, 1}, {0, 1, 0, 0}});
    add_bias("bias of all heads", {x, {b, 1, n, m}, {pairs, 0, m, 1}});
    add_bias("bias transposed", {x, {1, heads, n, m}, {0, pairs, 1, n}});
    add_bias("bias Toeplitz", {diagonal_.data() + n, {1, 1, n, m}, {0, 0, -1, 1}});
    add_bias("bias Toeplitz, reversed", {diagonal_.data() + m, {1, 1, n, m}, {0, 0, 1, -1}});
    add_bias("bias in both directions reversed",
             {x + std::max<index_t>(pairs * heads - 1, 0), {1, heads, n, m}, {0, -pairs, -m, -1}});
    add_bias("bias that hides", {hiding_.data(), {1, heads, n, m}, {0, pairs, m, 1}});
    add("score", kind::score, [](options& how, const scope& at) {
      how.score = {[first = static_cast<std::int32_t>(at.number)](T s, const heed::position& p) {
                     return T(0.5) * s +
                            static_cast<T>((7 * p.query + 3 * p.key + 5 * p.head + p.batch + first) % 11) / 8;
                   },
                   [](T, const heed::position&) { return T(0.5); }};
    });
    add("score that hides", kind::score, [](options& how, const scope&) {
      how.score = {[](T s, const heed::position& p) {
                     return (p.query + 2 * p.key + p.head) % 5 == 0 ? -std::numeric_limits<T>::infinity() : s + T(0.25);
                   },
                   [](T, const heed::position&) { return T(1); }};
    });
    if constexpr (requires(options how) { how.sink_logits; })
      add("sinks", kind::sink, [this](options& how, const scope&) { how.sink_logits = sinks_; });
    add("top_left", kind::align, [](options& how, const scope&) { how.align = heed::top_left; });
    add("first_place", kind::align,
        [this](options& how, const scope& at) { how.align = heed::first_place(some(first_, at)); });
    add("causal", kind::causal, [](options& how, const scope&) { see(how, heed::causal()); });
    add("window", kind::window, [](options& how, const scope&) { see(how, heed::window(17, 3)); });
    add("window with keep_first", kind::window, [](options& how, const scope&) { see(how, heed::window(5, 2, 4)); });
    add("key_lengths", kind::key_lengths,
        [this](options& how, const scope& at) { see(how, heed::key_lengths(some(lengths_, at))); });
    add("prefix_lm", kind::prefix,
        [this](options& how, const scope& at) { see(how, heed::prefix_lm(some(prefix_, at))); });
    add("segments", kind::segments, [this](options& how, const scope& at) {
      see(how, heed::segments({query_ids_.data() + at.first_query, {s_.batch, at.queries}, {s_.queries, 1}},
                              {key_ids_.data() + at.first_key, {s_.batch, at.keys}, {s_.keys, 1}}));
    });
    const bool* const v = visible_.get();
    add_keep("keep", {v, {1, heads, n, m}, {0, pairs, m, 1}});
    add_keep("keep of all heads", {v, {1, 1, n, m}, {0, 0, m, 1}});
    add_keep("keep per key", {v, {b, 1, 1, m}, {m, 0, 0, 1}});
    add_keep("keep per row", {v, {1, heads, n, 1}, {0, n, 1, 0}});
    add_keep("keep transposed", {v, {1, heads, n, m}, {0, pairs, 1, n}});
    add("visible_if", kind::user, [](options& how, const scope& at) {
      see(how, heed::visible_if([first = static_cast<std::int32_t>(at.number)](const heed::position& p) {
            return (p.key + 2 * p.query + p.head + p.batch + first) % 4 != 0;
          }));
    });
  }

  shape s_;
  const packing* sequences_;
  std::vector<T> full_, hiding_, diagonal_, slopes_, sinks_;
  std::vector<std::int32_t> lengths_, prefix_, first_, query_ids_, key_ids_;
  std::unique_ptr<bool[]> visible_;
};

}  // namespace heed_test
