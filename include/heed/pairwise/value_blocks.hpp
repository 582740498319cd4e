// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// V transposed for a matrix unit: blocks of 256 keys, [column][key] in bf16, made once per key/value head by the worker
// that comes first and read by all tasks of the head. Where each head is one task, or all blocks are more than 1 GiB,
// each worker makes blocks for itself.
//
// Values that are not finite stand as 0 in a block, which says so: 0 * NaN would reach rows that do not see the key.

#include <atomic>
#include <cstdint>
#include <new>
#include <thread>

#include "heed/core/context.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/tile/pack_pairs.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

struct value_block {
  const bf16_t* first = nullptr;  // [column][key], value_blocks::row apart
  bool finite = true;
};

class value_blocks {
 public:
  static constexpr index_t keys = 256;       // of a block
  static constexpr index_t row = keys + 32;  // numbers of a column; those behind the last key are 0

  // Bytes that all workers of a call share, 0 where each has a block of its own. one_task: each head is one
  static std::size_t shared_bytes(const attention<float>& p, bool one_task) {
    const double all = static_cast<double>(p.kv_heads) * static_cast<double>(p.sequences()) *
                       static_cast<double>(p.k.extent(2)) * static_cast<double>(p.e);
    if (one_task || all > 1 << 29) return 0;
    heed::detail::arena memory;
    memory.take<std::byte>(state_bytes(p)), memory.take<bf16_t>(count(p) * columns_of(p) * row);
    return memory.used();
  }
  // Before the tasks of a call
  static void clear(const attention<float>& p, std::byte* shared) {
    auto* const states = reinterpret_cast<state*>(shared);
    for (index_t i = 0; i < count(p); ++i) new (states + i) state(missing);
  }

  // shares: shared_bytes is not 0; shared: of as many bytes
  value_blocks(const attention<float>& p, bool shares, std::byte* shared, heed::detail::arena& memory)
      : p_(p), columns_(columns_of(p)) {
    if (shares)
      states_ = reinterpret_cast<state*>(shared), blocks_ = reinterpret_cast<bf16_t*>(shared + state_bytes(p));
    else
      blocks_ = memory.take<bf16_t>(2 * columns_ * row);
  }

  void begin(const sequence& s, index_t kv_head) {
    s_ = &s, kv_head_ = kv_head, at_hand_ = -1;
    const index_t before = p_.packed() ? s.first_key / keys + s.number : s.number * blocks_of(s.keys);
    const index_t here = p_.packed() ? s.keys / keys + 1 : blocks_of(s.keys);
    first_ = before * p_.kv_heads + kv_head * here;
  }

  // The block that holds a key. A block of this worker's own lasts until the second next one.
  value_block at(index_t key) {
    const index_t number = key / keys;
    if (states_ != nullptr) return shared_block(number);
    if (number != at_hand_) {
      turn_ = 1 - turn_, at_hand_ = number;
      own_ = {blocks_ + turn_ * columns_ * row, true};
      own_.finite = make(number, blocks_ + turn_ * columns_ * row);
    }
    return own_;
  }

 private:
  using state = std::atomic<std::uint32_t>;
  static constexpr std::uint32_t missing = 0, in_work = 1, all_finite = 2, not_all_finite = 3;

  static index_t blocks_of(index_t count) { return (count + keys - 1) / keys; }
  // Packed sequences: as many as fit any offsets. Sequence n begins at block first_key / 256 + n, see begin.
  static index_t count(const attention<float>& p) {
    const index_t all = p.k.extent(2), sequences = p.sequences();
    return p.kv_heads * (p.packed() ? all / keys + sequences : sequences * blocks_of(all));
  }
  static index_t columns_of(const attention<float>& p) { return (p.e + 15) / 16 * 16; }
  static index_t state_bytes(const attention<float>& p) {
    return (count(p) * static_cast<index_t>(sizeof(state)) + 63) / 64 * 64;
  }

  HEED_NOINLINE value_block shared_block(index_t number) {
    state& x = states_[first_ + number];
    bf16_t* const block = blocks_ + (first_ + number) * columns_ * row;
    std::uint32_t now = x.load(std::memory_order_acquire);
    if (now == missing && x.compare_exchange_strong(now, in_work, std::memory_order_acquire)) {
      now = make(number, block) ? all_finite : not_all_finite;
      x.store(now, std::memory_order_release);
    }
    while (now == in_work) std::this_thread::yield(), now = x.load(std::memory_order_acquire);
    return {block, now == all_finite};
  }

  bool make(index_t number, bf16_t* block) const {
    const index_t first = number * keys, count = std::min(keys, s_->keys - first);
    for (index_t c = 0; c < columns_; ++c)
      std::fill(block + c * row + (c < p_.e ? count : 0), block + (c + 1) * row, bf16_t{});
    return tile::transpose_pairs({p_.value(*s_, kv_head_, first), p_.v.row_bytes(), count, p_.e}, block, row);
  }

  const attention<float>& p_;
  index_t columns_;
  state* states_ = nullptr;
  bf16_t* blocks_ = nullptr;
  const sequence* s_ = nullptr;
  index_t kv_head_ = 0, first_ = 0, at_hand_ = -1;  // at_hand_: the block that is this worker's own
  index_t turn_ = 0;
  value_block own_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
