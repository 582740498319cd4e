// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// V transposed for a matrix unit: blocks of 256 keys, [column][key] in bf16, made once per key/value head by the worker
// that comes first and read by all tasks of the head. Where a head is one tile of queries (up to four, where keys and
// values are longer than the caches), all blocks are more than 1 GiB, or blocks are mostly padding (a few keys, a few
// columns), each worker makes blocks for itself.
//
// Values that are not finite stand as 0 in a block, which says so: 0 * NaN would reach rows that do not see the key.

#include <atomic>
#include <cstdint>
#include <new>
#include <thread>

#include "heed/core/context.hpp"
#include "heed/pairwise/problem.hpp"
#include "heed/tile/pack_pairs.hpp"
#include "heed/tile/prefetch.hpp"

namespace heed::pairwise {
inline namespace HEED_ISA {

struct value_block {
  const bf16_t* first = nullptr;  // [column][key], value_blocks::stride() apart
  bool finite = true;
};

class value_blocks {
 public:
  static constexpr index_t keys = 256;  // of a block

  // Returns the bytes that all workers of a call share: shapes alone decide. 0: each worker has blocks of its own.
  static std::size_t shared_bytes(const attention<float>& p) {
    // Tiles of a head that each make their own blocks: blocks that went to memory cost as much as new ones.
    // bench/softmax_half_bench.cpp, rows long.
    const index_t tiles = p.key_value_bytes() > 8 * tile::cached_bytes ? 4 : 1;
    const double rows = static_cast<double>(p.q.extent(2)) * static_cast<double>(p.group);
    const double all = count_of(p) * static_cast<double>(columns_of(p) * stride_of(p));
    const double values = static_cast<double>(p.kv_heads) * static_cast<double>(p.packed() ? 1 : p.sequences()) *
                          static_cast<double>(p.k.extent(2)) * static_cast<double>(p.e);
    if (rows <= static_cast<double>(tiles * vector_capacity * simd::width<float>)) return 0;
    if (all > 4 * values || all > 1 << 29) return 0;
    heed::detail::arena memory;
    memory.take<std::byte>(state_bytes(p));
    memory.take<bf16_t>(static_cast<index_t>(all));
    return memory.used();
  }
  // Marks all blocks as missing, before the tasks of a call.
  static void clear(const attention<float>& p, std::byte* shared) {
    auto* const states = reinterpret_cast<state*>(shared);
    const auto blocks = static_cast<index_t>(count_of(p));
    for (index_t i = 0; i < blocks; ++i) new (states + i) state(missing);
  }

  // shares: shared_bytes is not 0; shared: of as many bytes, or null to count `memory`
  value_blocks(const attention<float>& p, bool shares, std::byte* shared, heed::detail::arena& memory)
      : p_(p), columns_(columns_of(p)), stride_(stride_of(p)) {
    if (!shares)
      blocks_ = memory.take<bf16_t>(2 * columns_ * stride_);
    else if (shared != nullptr)
      states_ = reinterpret_cast<state*>(shared), blocks_ = reinterpret_cast<bf16_t*>(shared + state_bytes(p));
  }

  index_t stride() const { return stride_; }  // numbers from one column of a block to the next

  void begin(const sequence& s, index_t kv_head) {
    s_ = &s, kv_head_ = kv_head, own_number_ = -1;
    const index_t before = p_.packed() ? s.first_key / keys + s.number : s.number * blocks_of(s.keys);
    const index_t here = p_.packed() ? s.keys / keys + 1 : blocks_of(s.keys);
    first_ = before * p_.kv_heads + kv_head * here;
  }

  // Returns the block that holds a key. A block of this worker's own lasts until the second next one.
  value_block at(index_t key) {
    const index_t number = key / keys;
    if (states_ != nullptr) return shared_block(number);
    if (number != own_number_) {
      slot_ = 1 - slot_, own_number_ = number;
      own_ = {blocks_ + slot_ * columns_ * stride_, true};
      own_.finite = make(number, blocks_ + slot_ * columns_ * stride_);
    }
    return own_;
  }

  // Returns the rows that at(key) will read: of V, or of the block where it has been made.
  tile::row_span rows_behind(index_t key) const {
    const index_t number = key / keys, first = number * keys, element = static_cast<index_t>(sizeof(bf16_t));
    if (states_ != nullptr && states_[first_ + number].load(std::memory_order_relaxed) > in_work) {
      const bf16_t* const block = blocks_ + (first_ + number) * columns_ * stride_;
      return {reinterpret_cast<const std::byte*>(block), stride_ * element, p_.e, keys * element};
    }
    if (states_ == nullptr && number == own_number_) return {};
    return {p_.value(*s_, kv_head_, first), p_.v.row_bytes(), std::min(keys, s_->keys - first), p_.e * element};
  }

 private:
  static constexpr index_t spare = 32;  // numbers behind the last key of a column, which are 0
  using state = std::atomic<std::uint32_t>;
  static constexpr std::uint32_t missing = 0, in_work = 1, all_finite = 2, not_all_finite = 3;

  static index_t blocks_of(index_t count) { return (count + keys - 1) / keys; }
  // Packed sequences: as many as fit any offsets. Sequence n begins at block first_key / 256 + n, see begin.
  static double count_of(const attention<float>& p) {
    const double all = static_cast<double>(p.packed() ? p.k.extent(2) / keys : blocks_of(p.k.extent(2)));
    const double sequences = static_cast<double>(p.sequences());
    return static_cast<double>(p.kv_heads) * (p.packed() ? all + sequences : all * sequences);
  }
  static index_t columns_of(const attention<float>& p) { return (p.e + 15) / 16 * 16; }
  static index_t stride_of(const attention<float>& p) {
    return std::min(keys, (p.k.extent(2) + spare - 1) / spare * spare) + spare;
  }
  static index_t state_bytes(const attention<float>& p) {
    return (static_cast<index_t>(count_of(p)) * static_cast<index_t>(sizeof(state)) + 63) / 64 * 64;
  }

  HEED_NOINLINE value_block shared_block(index_t number) {
    state& x = states_[first_ + number];
    bf16_t* const block = blocks_ + (first_ + number) * columns_ * stride_;
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
      std::fill(block + c * stride_ + (c < p_.e ? count : 0), block + (c + 1) * stride_, bf16_t{});
    return tile::transpose_pairs({p_.value(*s_, kv_head_, first), p_.v.row_bytes(), count, p_.e}, block, stride_);
  }

  const attention<float>& p_;
  index_t columns_, stride_;
  state* states_ = nullptr;
  bf16_t* blocks_ = nullptr;
  const sequence* s_ = nullptr;
  index_t kv_head_ = 0, first_ = 0, own_number_ = -1;  // own_number_: of the block in own_
  index_t slot_ = 0;
  value_block own_;
};

}  // namespace HEED_ISA
}  // namespace heed::pairwise
