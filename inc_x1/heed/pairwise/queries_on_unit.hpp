// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Softmax attention with queries in lanes on a matrix unit, for bf16 q, k and v:
//
//   S^T = K Q^T,  P^T = 2^(f (S - m)) rounded to bf16,  O^T = V^T P^T,  l = the sum of the rounded weights
//
// K is read where it is, a pair of columns at a time; Q is packed once for a tile of queries, V once for a key/value
// head (value_blocks). A power of two of the scale goes into Q, which is exact; the rest f, 1 to 2, into the exponent,
// or into a pass of its own before score mods. Scores, maxima and sums are floats, [key][lane] as in the float engine,
// and so are masks and score mods.
//
// A stage is the lanes of a tile that the unit takes at once against one tile of keys. Where the unit leaves the vector
// units free (AMX), the weights of a stage are made in pieces between the products of the stages before and behind it;
// else stage after stage.

#include <cmath>

#include "heed/pairwise/finish_rows.hpp"
#include "heed/pairwise/masked_scores.hpp"
#include "heed/pairwise/value_blocks.hpp"
#include "heed/tile/matrix_unit.hpp"
#include "heed/tile/pair_weights.hpp"
#include "heed/tile/prefetch.hpp"
#include "heed/tile/row_stage.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

// factor = power * mantissa: power a power of two of either sign, 1 <= mantissa < 2. 0, infinity and NaN are kept whole
// in power.
struct split_factor {
  float power, mantissa;

  explicit split_factor(float factor) : power(factor), mantissa(1) {
    if (!std::isfinite(factor) || heed::detail::equals(factor, 0.0f)) return;
    int exponent = 0;
    mantissa = 2 * std::abs(std::frexp(factor, &exponent));
    power = std::copysign(std::ldexp(1.0f, exponent - 1), factor);
  }
};

class queries_on_unit {
  static constexpr index_t w = simd::width<float>;

 public:
  static constexpr index_t most_rows = vector_capacity * w;  // of a tile
  static constexpr index_t most_keys = value_blocks::keys;

  queries_on_unit(const softmax_problem<float>& p, const tile::matrix_unit& unit, bool shares, std::byte* shared,
                  heed::detail::arena& memory)
      : p_(p),
        unit_(unit),
        factor_(p.scores.query_factor),
        masked_(p, std::max<index_t>(1, unit.lane_multiple / w)),
        values_(p, shares, shared, memory),
        pairs_(round_up((p.d + 1) / 2, unit.pair_multiple)),
        stage_vectors_(std::min(unit.stage_lanes / w, vector_capacity)),
        prefetches_(p.key_value_bytes() > tile::cached_bytes || tile::far_rows(p.k) || tile::far_rows(p.v)),
        q_(memory.take<float>(pairs_ * most_rows)),
        sums_(memory.take<float>(round_up(p.e, unit.row_multiple) * most_rows)),
        keys_copy_(memory.take<bf16_t>(copied_keys() * 2 * pairs_)),
        state_{memory.take<float>(most_rows), memory.take<float>(most_rows)} {
    const index_t lanes = stage_vectors_ * w, rows = most_keys + spare_rows();
    for (stage& x : stages_) {
      if (&x == &stages_[1] && !unit.interleaves) continue;
      x.scores = memory.take<float>(rows * lanes + skew),
      x.weights = memory.take<float>((most_keys + 32) / 2 * lanes + skew);
      x.row_max = memory.take<float>(most_rows), x.factor = memory.take<float>(most_rows);
    }
  }

  // o and lse of rows of key/value head kv_head; gate: if not null, what o of each row is multiplied with
  void run(const sequence& s, index_t kv_head, const row_tile& rows, const float* gate = nullptr) {
    begin(s, kv_head, rows);
    const key_spans spans = masked_.spans();
    if (spans.count > 0) end_ = spans.span[spans.count - 1].end;
    for (index_t i = 0; i < spans.count; ++i)
      for (index_t first = spans.span[i].first, end = 0; first < spans.span[i].end; first = end) {
        end = std::min(spans.span[i].end, (first / most_keys + 1) * most_keys);
        visit(first, end, spans.span[i].partial);
      }
    finish_stages();
    finish(rows, gate);
  }

 private:
  // Score rows of stages that alternate are apart from each other in the sets of the first cache.
  static constexpr index_t skew = 256;

  struct stage {
    float *scores = nullptr, *weights = nullptr;  // [key][lane], pairs of keys [pair][lane]
    float *row_max = nullptr, *factor = nullptr;  // one per lane of the tile; factor: of sums and l so far
    key_tile<float> keys;                         // with the blocks of this stage
    value_block values;
    index_t from = 0, to = 0;    // vectors of the tile
    index_t block = 0, key = 0;  // where the next piece of weights begins
    bool waits = false;          // for its product with V

    pairwise::score_rows<float> score_rows() const { return {scores, (to - from) * w, from, to}; }
  };

  static index_t round_up(index_t x, index_t multiple) { return (x + multiple - 1) / multiple * multiple; }
  // Products of whole tiles of rows go so far beyond the last key.
  index_t spare_rows() const { return unit_.row_multiple > 1 ? unit_.row_multiple : 0; }
  // Rows of K that are copied at most: all where columns are padded, the last where rows are
  index_t copied_keys() const { return p_.d != 2 * pairs_ || spare_rows() > 0 ? most_keys + spare_rows() : 0; }

  void begin(const sequence& s, index_t kv_head, const row_tile& rows) {
    s_ = &s, kv_head_ = kv_head;
    lanes_ = rows;  // whole lanes of the unit: what is behind the last row repeats it
    lanes_.count = round_up(rows.count, std::max(w, unit_.lane_multiple));
    for (index_t l = rows.count; l < lanes_.count; ++l) lanes_.row[l] = rows.row[rows.count - 1];
    stride_ = lanes_.count;
    masked_.begin(s, lanes_);
    values_.begin(s, kv_head);
    tile::gather_pairs(find_rows(lanes_, p_.q, s, p_.repeat).data(), stride_, p_.d, factor_.power, q_, pairs_,
                       p_.q_format->gather);
    tile::fill(sums_, stride_, round_up(p_.e, unit_.row_multiple), stride_, 0.0f);
    state_.init(stride_);
    for (index_t l = 0; p_.sink_logits.set() && l < stride_; ++l) {
      const tile::row_state<float> x = p_.init_row(lanes_.row[l].head);
      state_.set(l, {x.m / score_factor(), x.l});
    }
  }

  // Returns what scores are still to be multiplied with; score mods are given whole scores.
  float score_factor() const { return masked_.modifies() ? 1.0f : factor_.mantissa; }

  void visit(index_t first, index_t end, bool partial) {
    key_tile<float> keys;
    keys.key = first, keys.keys = end - first, keys.partial = partial;
    masked_.classify(keys);
    place_keys(keys);
    for (index_t v = 0; v < masked_.vectors(); v += stage_vectors_) {
      masked_.add_blocks(keys, v, std::min(v + stage_vectors_, masked_.vectors()));
      if (keys.count > 0) run_stage(keys, v);
    }
  }

  void run_stage(const key_tile<float>& keys, index_t vector) {
    tile::background work;
    if (unit_.interleaves) {
      work = weights_of(stages_[1 - at_]);
      multiply_values(stages_[at_], work);  // the stage before the last
    }
    stage& x = stages_[unit_.interleaves ? at_ : 0];
    x.keys = keys, x.from = vector, x.to = std::min(vector + stage_vectors_, masked_.vectors());
    make_scores(x, work);
    work.finish();
    update_maxima(x);
    if (unit_.interleaves) {
      at_ = 1 - at_;
    } else {
      weights_of(x).finish();
      multiply_values(x, work);
    }
  }
  void finish_stages() {
    if (!unit_.interleaves) return;
    tile::background work = weights_of(stages_[1 - at_]);
    multiply_values(stages_[at_], work);
    work.finish();
    multiply_values(stages_[1 - at_], work);
  }

  // The rows of K that a tile's products read: in place, or copied where these would read beyond their ends
  void place_keys(const key_tile<float>& keys) {
    k_ = tile::row_as<bf16_t>(p_.key(*s_, kv_head_, keys.key)), k_row_ = p_.k.row_bytes() / bf16_bytes;
    const bool steps_fit = keys.full || masked_scores<float>::step % unit_.row_multiple == 0;
    if (p_.d == 2 * pairs_ && keys.keys % unit_.row_multiple == 0 && steps_fit) return;
    for (index_t j = 0; j < keys.keys + spare_rows(); ++j) {
      bf16_t* const to = keys_copy_ + j * 2 * pairs_;
      const bf16_t* const from = k_ + std::min(j, keys.keys - 1) * k_row_;
      std::fill(std::copy(from, from + p_.d, to), to + 2 * pairs_, bf16_t{});
    }
    k_ = keys_copy_, k_row_ = 2 * pairs_;
  }

  void make_scores(stage& x, tile::background& work) {
    const score_rows<float> all = x.score_rows();
    tile::row_prefetcher<float> values;
    if (prefetches_) values = tile::row_prefetcher<float>(values_.rows_behind(x.keys.key));
    masked_.scores(x.keys, all, state_.m, x.row_max, [&](const weight_block& b, float* row_max) {
      const tile::lane_block<float> s = all.part(b);
      tile::pair_product p{k_ + b.first * k_row_, k_row_, q_ + b.from * w, stride_, s.data, s.stride};
      p.rows = round_up(b.keys, unit_.row_multiple), p.pairs = pairs_, p.row_max = row_max;
      p.prefetch = prefetches_ ? &values : nullptr;
      unit_.multiply(p, s.lanes, work);
      if (masked_.modifies()) scale_scores(s);
    });
    for (index_t i = 0; may_be_nan() && i < x.keys.count; ++i) quiet_scores(all.part(x.keys.block[i]));
    x.values = values_.at(x.keys.key);
    x.block = 0, x.key = 0, x.waits = true;
  }
  void scale_scores(const tile::lane_block<float>& s) const {
    const simd::batch<float> f(factor_.mantissa);
    for (index_t j = 0; j < s.rows; ++j)
      for (index_t l = 0; l < s.lanes; l += w) simd::store(s.row(j) + l, simd::load(s.row(j) + l) * f);
  }

  // Whether scores may hold NaN with any bits: rounding would carry out of some.
  bool may_be_nan() const { return p_.scores.has_bias() || p_.scores.has_function(); }
  static void quiet_scores(const tile::lane_block<float>& s) {
    for (index_t j = 0; j < s.rows; ++j)
      for (index_t l = 0; l < s.lanes; l += w) simd::store(s.row(j) + l, quiet(simd::load(s.row(j) + l)));
  }
  HEED_INLINE static simd::batch<float> quiet(simd::batch<float> x) {
    return simd::select<float>(x == x, x, simd::batch<float>(std::numeric_limits<float>::quiet_NaN()));
  }

  // m of the stage's lanes, and what their sums so far are to be multiplied with
  void update_maxima(stage& x) {
    const simd::batch<float> f(score_factor());
    for (index_t i = 0; i < x.keys.count; ++i)
      for (index_t l = x.keys.block[i].from * w; l < x.keys.block[i].to * w; l += w) {
        const simd::batch<float> most = quiet(simd::load(x.row_max + l)), before = simd::load(state_.m + l);
        const simd::batch<float> factor = simd::exp2_nonpositive((before - most) * f);
        simd::store(x.factor + l, factor);
        simd::store(x.row_max + l, most), simd::store(state_.m + l, most);
        simd::store(state_.l + l, simd::load(state_.l + l) * factor);
      }
  }

  static constexpr index_t piece_keys = 4;

  // Prepares the weights of a stage, to be made in pieces.
  tile::background weights_of(stage& x) {
    if (!x.waits) return {};
    working_ = &x;
    const index_t keys = unit_.interleaves ? piece_keys : most_keys;
    tile::background work{[](void* self) { static_cast<queries_on_unit*>(self)->make_weights(); }, this};
    for (index_t i = 0; i < x.keys.count; ++i) work.left += (x.keys.block[i].keys + keys - 1) / keys;
    return work;
  }
  void make_weights() {
    stage& x = *working_;
    const weight_block& b = x.keys.block[x.block];
    const index_t most = unit_.interleaves ? piece_keys : most_keys, keys = std::min(most, b.keys - x.key);
    const score_rows<float> all = x.score_rows();
    const index_t lane = b.from * w;
    tile::make_pair_weights({all.part(b).row(x.key), all.stride, keys, score_factor(), x.row_max + lane,
                             state_.l + lane, weights_at(x, b) + x.key / 2 * all.stride, all.stride},
                            b.to - b.from);
    x.key += keys;
    if (x.key == b.keys) ++x.block, x.key = 0;
  }
  // Finds the weights of a block, from the first row of the stage on: blocks have lanes of their own.
  static float* weights_at(const stage& x, const weight_block& b) { return x.weights + (b.from - x.from) * w; }

  void multiply_values(stage& x, tile::background& work) {
    if (!x.waits) return;
    x.waits = false;
    const index_t first = x.keys.key % most_keys, stride = (x.to - x.from) * w;
    tile::row_prefetcher<float> next = next_keys(x.keys.key + x.keys.keys);
    for (index_t i = 0; i < x.keys.count; ++i) {
      const weight_block& b = x.keys.block[i];
      const index_t lane = b.from * w, lanes = (b.to - b.from) * w, pairs = (b.keys + 1) / 2;
      float* const weights = weights_at(x, b);
      tile::pair_product p{x.values.first + first + b.first, values_.stride(), weights, stride, sums_ + lane, stride_};
      p.rows = round_up(p_.e, unit_.row_multiple), p.pairs = round_up(pairs, unit_.pair_multiple);
      tile::fill(weights + pairs * stride, stride, p.pairs - pairs, lanes, 0.0f);
      p.accumulate = all_one(x.factor + lane, lanes) ? tile::accumulate::keep : tile::accumulate::scale;
      p.factor = x.factor + lane, p.prefetch = prefetches_ ? &next : nullptr;
      unit_.multiply(p, lanes, work);
      if (!x.values.finite) add_nonfinite(x, b);
    }
  }
  // Rows of K of the tile that begins with a key, to be prefetched
  tile::row_prefetcher<float> next_keys(index_t key) const {
    if (!prefetches_ || key >= end_) return {};
    const tile::row_span rows{p_.key(*s_, kv_head_, key), p_.k.row_bytes(), std::min(most_keys, end_ - key),
                              p_.d * bf16_bytes};
    if (!tile::far_rows(p_.k)) tile::touch_pages(tile::after(rows));
    return tile::row_prefetcher<float>(rows);
  }
  static bool all_one(const float* x, index_t lanes) {
    return std::all_of(x, x + lanes, [](float f) { return heed::detail::equals(f, 1.0f); });
  }

  // Adds the products with values that are not finite to the sums of the rows that see them.
  HEED_NOINLINE void add_nonfinite(const stage& x, const weight_block& b) {
    const score_rows<float> all = x.score_rows();
    const tile::lane_block<float> s = all.part(b);
    for (index_t j = 0; j < b.keys; ++j) {
      const bf16_t* const v = tile::row_as<bf16_t>(p_.value(*s_, kv_head_, x.keys.key + b.first + j));
      const float* const pairs = weights_at(x, b) + j / 2 * all.stride;
      for (index_t c = 0; c < p_.e; ++c) {
        const float value = static_cast<float>(v[c]);
        if (!std::isfinite(value)) add_value(value, {s.row(j), s.stride, 1, s.lanes}, pairs, j % 2 != 0, sum_at(c, b));
      }
    }
  }
  float* sum_at(index_t column, const weight_block& b) { return sums_ + column * stride_ + b.from * w; }
  static void add_value(float value, const tile::lane_block<const float>& s, const float* pairs, bool odd, float* sum) {
    const simd::batch<float> hidden(-std::numeric_limits<float>::infinity()), v(value);
    for (index_t l = 0; l < s.lanes; l += w) {
      const simd::batch<float> pair = simd::load(pairs + l), p = odd ? simd::cut_to_bf16(pair) : simd::low_bf16(pair);
      const simd::batch<float> before = simd::load(sum + l);
      simd::store(sum + l, simd::select<float>(simd::load(s.data + l) == hidden, before, simd::fma(v, p, before)));
    }
  }

  void finish(const row_tile& rows, const float* gate) {
    for (index_t l = 0; l < rows.count; ++l) {
      tile::row_state<float> x = state_.at(l);
      const tile::row_state<float> init = p_.init_row(rows.row[l].head);
      x.m = heed::detail::equals(x.m, init.m / score_factor()) ? init.m : x.m * score_factor();
      state_.set(l, x);
    }
    finish_rows<float>(p_, *s_, rows, gate, state_, {sums_, stride_, p_.e, stride_}, stages_[0].factor);
  }

  static constexpr index_t bf16_bytes = static_cast<index_t>(sizeof(bf16_t));

  const softmax_problem<float>& p_;
  const tile::matrix_unit& unit_;
  split_factor factor_;
  masked_scores<float> masked_;
  value_blocks values_;
  index_t pairs_, stage_vectors_;
  bool prefetches_;
  float *q_, *sums_;  // [pair of columns][lane], [column][lane]
  bf16_t* keys_copy_;
  tile::lane_states<float> state_;  // m in units of scores before score_factor() is applied
  tile::lane_array<stage, 2> stages_;
  index_t at_ = 0;  // the stage that is filled next
  stage* working_ = nullptr;
  const sequence* s_ = nullptr;
  index_t kv_head_ = 0, stride_ = 0, end_ = 0;  // end_: of the keys that the tile sees
  row_tile lanes_;
  const bf16_t* k_ = nullptr;  // rows of the tile at hand
  index_t k_row_ = 0;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
