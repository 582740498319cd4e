// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Every mask under every alignment, for calls of a given size.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/mask.hpp"
#include "support/random.hpp"
#include "support/shapes.hpp"

namespace heed_test {

struct named_mask {
  std::string name;
  heed::mask mask;
};
struct named_alignment {
  std::string name;
  heed::alignment align;
};

// Owns the numbers that the masks refer to.
class mask_set {
 public:
  explicit mask_set(const shape& s, std::uint32_t seed = 3) {
    using heed::causal, heed::key_lengths, heed::window;
    random_numbers random(seed);
    const auto n = static_cast<std::int32_t>(s.queries), m = static_cast<std::int32_t>(s.keys);
    for (index_t b = 0; b < s.batch; ++b) {
      lengths_.push_back(random.below(m + 1));
      prefix_.push_back(random.below(m + 1));
      first_.push_back(random.below(2 * (n + m) + 1) - n - 2);  // from before the first key to beyond the last
      mid_.push_back((m - n) / 2);
    }
    query_ids_ = ids(random, s.batch * s.queries);
    key_ids_ = ids(random, s.batch * s.keys);
    visible_ = std::make_unique<bool[]>(static_cast<std::size_t>(s.batch * s.queries * s.keys));
    for (index_t i = 0; i < s.batch * s.queries * s.keys; ++i)
      visible_[static_cast<std::size_t>(i)] = random.uniform() < 0.7;

    const heed::tensor_view<const std::int32_t, 2> query_ids(query_ids_.data(), {s.batch, s.queries}, {s.queries, 1});
    const heed::tensor_view<const std::int32_t, 2> key_ids(key_ids_.data(), {s.batch, s.keys}, {s.keys, 1});
    const heed::tensor_view<const bool, 4> visible(visible_.get(), {s.batch, 1, s.queries, s.keys},
                                                   {s.queries * s.keys, 0, s.keys, 1});
    masks = {
        {"none", {}},
        {"causal", causal()},
        {"window(0)", window(0)},
        {"window(5)", window(5)},
        {"window(3, 2)", window(3, 2)},
        {"window(-1, 1)", window(-1, 1)},
        {"window(7, -1)", window(7, -1)},
        {"window(-1, -1)", window(-1, -1)},
        {"window(100, 30)", window(100, 30)},
        {"window(4, 0, 2)", window(4, 0, 2)},
        {"window(2, 3, 9)", window(2, 3, 9)},
        {"causal & window(6, 4)", causal() & window(6, 4)},
        {"causal & window(40, -1, 5)", causal() & window(40, -1, 5)},
        {"key_lengths", key_lengths(lengths_)},
        {"causal & key_lengths", causal() & key_lengths(lengths_)},
        {"key_lengths & window(9, 9, 1)", key_lengths(lengths_) & window(9, 9, 1)},
        {"prefix_lm", heed::prefix_lm(prefix_)},
        {"segments", heed::segments(query_ids, key_ids)},
        {"causal & segments", causal() & heed::segments(query_ids, key_ids)},
        {"keep", heed::keep(visible)},
        {"window(20, 5) & keep", window(20, 5) & heed::keep(visible)},
        {"visible_if",
         heed::visible_if([](const heed::position& at) { return (at.key + 2 * at.query + at.head) % 3 != 0; })},
    };
    alignments = {
        {"bottom_right", heed::bottom_right},
        {"top_left", heed::top_left},
        {"first_place", heed::first_place(first_)},
        {"first_place in the middle", heed::first_place(mid_)},
    };
  }
  mask_set(const mask_set&) = delete;
  mask_set& operator=(const mask_set&) = delete;

  std::vector<named_mask> masks;
  std::vector<named_alignment> alignments;

 private:
  static std::vector<std::int32_t> ids(random_numbers& random, index_t count) {
    std::vector<std::int32_t> x(static_cast<std::size_t>(count));
    for (std::int32_t& id : x) id = random.below(3);
    return x;
  }

  std::vector<std::int32_t> lengths_, prefix_, first_, mid_, query_ids_, key_ids_;
  std::unique_ptr<bool[]> visible_;
};

}  // namespace heed_test
