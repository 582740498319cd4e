// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Masks and options of kernels with a score for every pair, out of bytes, with the memory that they view.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "fuzz/numbers.hpp"
#include "fuzz/place.hpp"
#include "fuzz/views.hpp"
#include "heed/core/alignment.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/score_function.hpp"
#include "support/random.hpp"
#include "support/shapes.hpp"

namespace heed_test {

// A score function of the caller's. at: the key of whose pairs it throws; -1: none
template <class T> struct fuzz_score {
  std::int32_t at;
  bool hides;
  T operator()(T s, const heed::position& p) const {
    if (p.key == at && p.query % 3 == 0) throw stop_calling();
    if (hides && (p.query + 2 * p.key + p.head) % 5 == 0) return -std::numeric_limits<T>::infinity();
    return T(0.5) * s + static_cast<T>((7 * p.query + 3 * p.key + 5 * p.head + p.batch) % 11) / 8;
  }
};
template <class T> struct fuzz_score_slope {
  std::int32_t at;
  T operator()(T, const heed::position& p) const {
    if (p.key == at && p.query % 3 == 1) throw stop_calling();
    return T(0.5);
  }
};
struct fuzz_predicate {
  std::int32_t at;
  bool operator()(const heed::position& p) const {
    if (p.key == at) throw stop_calling();
    return (p.key + 2 * p.query + p.head + p.batch) % 4 != 0;
  }
};

struct option_limits {
  bool cached = false;  // keys are a cache's: no key_lengths, no packed
  bool backward = false;
  bool sinks = true;
  bool gentle = false;  // scores stay small
};

// s: packed sequences need a batch of 1, which is set.
template <class T, class Options> class pairwise_options {
 public:
  Options options;
  std::string wrong;  // a word of the error that the options must be
  index_t sequences = 0;

  pairwise_options(bytes& in, shape& s, const option_limits& with) : with_(with), random_(in.byte() + 1u) {
    if (!with.cached && s.batch > 0 && in.one_in(7)) pack(in, s);
    sequences = packed() ? static_cast<index_t>(queries_.size()) - 1 : s.batch;
    heads_ = s.out_heads();
    add_mask(in, s), add_scores(in, s), add_functions(in);
  }
  pairwise_options(const pairwise_options&) = delete;
  pairwise_options& operator=(const pairwise_options&) = delete;

  // Breaks one option, if it has one that can be.
  void break_one(bytes& in, const shape& s) {
    constexpr index_t big = index_t{1} << 31;
    const index_t kind = in.below(11);
    const auto lengths_of = [&](std::int32_t last) {
      broken_.assign(static_cast<std::size_t>(std::max<index_t>(sequences, 0)), 0);
      if (broken_.empty() || in.one_in(4))
        broken_.push_back(0);
      else
        broken_[static_cast<std::size_t>(in.below(sequences))] = last;
    };
    const auto most = static_cast<std::int32_t>(s.keys);
    if (kind == 0) {
      options.softcap = in.of({-1.0, std::numeric_limits<double>::quiet_NaN()}), wrong = "softcap";
    } else if (kind == 1) {
      options.scale = std::numeric_limits<double>::quiet_NaN(), wrong = "scale";
    } else if (kind == 2 && heads_ > 0) {
      options.alibi_slopes =
          in.of({-0.1, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()});
      wrong = "alibi_slopes";
    } else if (kind == 3) {
      slopes_.assign(static_cast<std::size_t>(heads_ + 1), T(0.1));
      options.alibi_slopes = slopes_, wrong = "alibi_slopes";
    } else if (kind == 4 && !with_.cached && !packed()) {
      lengths_of(in.flip() ? -1 : most + 1);
      options.mask = heed::mask() & heed::key_lengths(broken_), wrong = "key_lengths";
      options.align = {};
    } else if (kind == 5) {
      lengths_of(-1);
      see(heed::prefix_lm(broken_)), wrong = has_prefix_ ? "two" : "prefix_lm";
    } else if (kind == 6) {
      const bool conflicts = window_keep_ > 0;
      see(heed::window(in.of({index_t{-2}, -big}), 3)), wrong = conflicts ? "" : "window";
      if (conflicts) options.mask = heed::mask(), see(heed::window(-5)), wrong = "window", options.align = {};
    } else if (kind == 7) {
      broken_.assign(static_cast<std::size_t>(sequences) + 1, 0);
      options.align = heed::first_place(broken_), wrong = "first_place";
    } else if (kind == 8 && !has_lengths_) {
      options.align = heed::end_of_lengths, wrong = with_.cached ? "" : "end_of_lengths";
      if (with_.cached) options.align = {};
    } else if (kind == 9 && !with_.cached && s.batch == 1) {
      broken_ = {0, static_cast<std::int32_t>(s.queries) + 1}, offsets_ = {0, 0};
      options.mask = heed::packed(broken_, offsets_), options.align = {}, wrong = "query_offsets";
    } else {
      options.bias = {&none_, {s.batch + 2, heads_, s.queries, s.keys}, {0, 0, 0, 0}}, wrong = "bias";
    }
    if (!wrong.empty()) tell("wrong ", wrong);
  }

 private:
  bool packed() const { return !queries_.empty(); }
  void see(const heed::mask& more) { options.mask = options.mask & more; }
  std::vector<std::int32_t> numbers(index_t count, std::int32_t least, std::int32_t most) {
    std::vector<std::int32_t> x(static_cast<std::size_t>(count));
    for (std::int32_t& n : x) n = least + random_.below(most - least + 1);
    return x;
  }
  index_t keys_of(index_t sequence, const shape& s) const {
    if (!packed()) return s.keys;
    const auto b = static_cast<std::size_t>(sequence);
    return keys_[b + 1] - keys_[b];
  }
  std::vector<std::int32_t> up_to_keys(const shape& s) {
    std::vector<std::int32_t> x;
    for (index_t b = 0; b < sequences; ++b) x.push_back(random_.below(static_cast<std::int32_t>(keys_of(b, s)) + 1));
    return x;
  }

  void pack(bytes& in, shape& s) {
    s.batch = 1;
    queries_ = numbers(in.below(5), 0, static_cast<std::int32_t>(s.queries));
    keys_ = numbers(static_cast<index_t>(queries_.size()) + 1, 0, static_cast<std::int32_t>(s.keys));
    queries_.push_back(static_cast<std::int32_t>(s.queries)), queries_.push_back(0), keys_.push_back(0);
    std::sort(queries_.begin(), queries_.end()), std::sort(keys_.begin(), keys_.end());
    see(heed::packed(queries_, keys_));
    tell("packed, ", queries_.size() - 1, " sequences");
  }

  void add_mask(bytes& in, const shape& s) {
    const auto n = static_cast<std::int32_t>(s.queries), m = static_cast<std::int32_t>(s.keys);
    const unsigned kinds = in.of({0u, 1u, 1u, in.byte(), in.byte() & in.byte()});
    if (kinds & 1) see(heed::causal()), tell("causal");
    if (kinds & 2) {
      const index_t left = in.between(-1, 40), right = in.between(-1, 12);
      window_keep_ = in.of({0, 0, 3, 50});
      see(heed::window(left, right, window_keep_)), tell("window ", left, " ", right, " ", window_keep_);
    }
    if ((kinds & 4) && !with_.cached) {
      lengths_ = up_to_keys(s), has_lengths_ = true;
      see(heed::key_lengths(lengths_)), tell("key_lengths");
    }
    if (kinds & 8) prefix_ = up_to_keys(s), has_prefix_ = true, see(heed::prefix_lm(prefix_)), tell("prefix_lm");
    if (kinds & 16) {
      query_ids_ = numbers(s.batch * s.queries, 0, 2), key_ids_ = numbers(s.batch * s.keys, 0, 2);
      see(heed::segments({query_ids_.data(), {s.batch, s.queries}, {s.queries, 1}},
                         {key_ids_.data(), {s.batch, s.keys}, {s.keys, 1}}));
      tell("segments");
    }
    if (kinds & 32) {
      const bool all_batches = in.flip(), all_heads = in.flip();
      const index_t b = all_batches ? 1 : s.batch, h = all_heads ? 1 : heads_;
      visible_ = std::make_unique<bool[]>(static_cast<std::size_t>(b * h * s.queries * s.keys));
      for (index_t i = 0; i < b * h * s.queries * s.keys; ++i)
        visible_[static_cast<std::size_t>(i)] = random_.uniform() < 0.7;
      see(heed::keep(
          {visible_.get(), {b, h, s.queries, s.keys}, {h * s.queries * s.keys, s.queries * s.keys, s.keys, 1}}));
      tell("keep");
    }
    if ((kinds & 64) && (kinds & 128)) {
      throws_ = in.one_in(6) ? static_cast<std::int32_t>(in.tokens()) : -1;
      see(heed::visible_if(fuzz_predicate{throws_})), tell("visible_if, throws at key ", throws_);
    }
    const index_t align = in.below(5);
    if (align == 1) options.align = heed::top_left, tell("top_left");
    if (align == 2) {
      first_ = in.one_in(5) ? numbers(sequences, -2147483000, 2147483000) : numbers(sequences, -n - 3, m + 3);
      options.align = heed::first_place(first_), tell("first_place");
    }
    if (align == 3 && has_lengths_) options.align = heed::end_of_lengths, tell("end_of_lengths");
    if (with_.cached && align == 1) options.align = {};
  }

  void add_scores(bytes& in, const shape& s) {
    const index_t kinds = in.below(8);
    if (in.one_in(4)) {
      options.scale = with_.gentle ? in.of({0.0, 1.0, -0.3}) : in.of({0.0, 1.0, -0.3, 20.0, 1e3, 1e-30});
      tell("scale ", *options.scale);
    }
    if (in.one_in(5)) options.softcap = in.of({1.5, 30.0, 1e30}), tell("softcap ", options.softcap);
    if (kinds == 1) {
      slopes_ = std::vector<T>(static_cast<std::size_t>(heads_));
      for (T& x : slopes_) x = static_cast<T>(random_.uniform() / 8);
      options.alibi_slopes = slopes_, tell("alibi_slopes");
    }
    if (kinds == 2) options.alibi_slopes = 0.1, tell("one alibi slope");
    if (kinds == 3 || kinds == 4) {
      const index_t b = in.flip() ? 1 : s.batch, h = in.flip() ? 1 : heads_, n = in.one_in(4) ? 1 : s.queries,
                    m = in.one_in(4) ? 1 : s.keys;
      bias_.resize(static_cast<std::size_t>(b * h * n * m));
      const bool hides = in.one_in(4);
      for (T& x : bias_) {
        x = static_cast<T>(random_.normal());
        if (hides && random_.below(4) == 0) x = -std::numeric_limits<T>::infinity();
      }
      options.bias = {bias_.data(), {b, h, n, m}, {h * n * m, n * m, m, 1}};
      if (in.one_in(3)) options.bias = {bias_.data(), {b, h, n, m}, {h * n * m, n * m, 1, n}};
      tell("bias ", b, " ", h, " ", n, " ", m, hides ? ", hides" : "");
    }
    if constexpr (requires(Options x) { x.sink_logits; })
      if (with_.sinks && in.one_in(6)) {
        sinks_ = std::vector<T>(static_cast<std::size_t>(heads_));
        for (T& x : sinks_) x = static_cast<T>(random_.normal() * 3);
        options.sink_logits = sinks_, tell("sink_logits");
      }
  }

  void add_functions(bytes& in) {
    if (!in.one_in(9)) return;
    const std::int32_t at = in.one_in(6) ? static_cast<std::int32_t>(in.tokens()) : -1;
    const fuzz_score<T> f{at, in.one_in(4)};
    tell("score function, throws at key ", at, f.hides ? ", hides" : "");
    if (!with_.backward)
      options.score = {f};
    else
      options.score = {f, fuzz_score_slope<T>{at}};
  }

  option_limits with_;
  random_numbers random_;
  index_t heads_ = 0, window_keep_ = 0;
  std::int32_t throws_ = -1;
  bool has_lengths_ = false, has_prefix_ = false;
  T none_ = 0;
  std::vector<std::int32_t> queries_, keys_, lengths_, prefix_, query_ids_, key_ids_, first_, broken_, offsets_;
  std::unique_ptr<bool[]> visible_;
  std::vector<T> slopes_, sinks_, bias_;
};

}  // namespace heed_test
