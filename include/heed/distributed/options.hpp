// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How a sequence lies on the ranks.

#include <array>
#include <chrono>

#include "heed/core/config.hpp"
#include "heed/core/message.hpp"
#include "heed/core/types.hpp"

namespace heed::distributed {

// contiguous: the tokens of rank 0, then those of rank 1, ...
// zigzag: the sequence in 2 R chunks, of which rank r holds chunks r and 2 R - 1 - r, one behind the other. Under a
// causal mask every rank then has the same work: an early chunk sees little, a late one much.
enum class cut { contiguous, zigzag };

// How states go from rank to rank in linear and lightning attention. scan: in ceil(log2 R) + 1 messages, one after the
// other. chain: one message, which waits for those of all ranks before.
enum class state_pass { scan, chain };

struct options {
  distributed::cut cut = distributed::cut::contiguous;
  index_t first_chunk = -1;  // zigzag: tokens of this rank in its first chunk; -1: half of them, rounded up
  state_pass states = state_pass::scan;
  std::chrono::milliseconds timeout{60'000};  // of each wait for another rank: longer than a step
                                              // computes; above a year: a year
};

// count tokens of a sequence from token first on
struct token_range {
  index_t first = 0, count = 0;
};

inline namespace HEED_ISA {

// The tokens of a rank where all chunks are as long as can be: one range, or two with zigzag, in the order in which the
// rank keeps them. Throws heed::error where tokens < 0, ranks < 1 or there is no such rank.
inline std::array<token_range, 2> tokens_of(cut how, index_t tokens, index_t ranks, index_t rank) {
  if (tokens < 0) heed::detail::fail("tokens_of: tokens is %, must be at least 0", tokens);
  if (ranks < 1 || rank < 0 || rank >= ranks)
    heed::detail::fail("tokens_of: rank is % of %, must be 0 to ranks - 1", rank, ranks);
  const index_t chunks = how == cut::zigzag ? 2 * ranks : ranks, each = tokens / chunks, more = tokens % chunks;
  const auto chunk = [&](index_t c) {
    return token_range{c * each + (c < more ? c : more), each + (c < more ? 1 : 0)};
  };
  if (how == cut::contiguous) return {chunk(rank), token_range{chunk(rank).first + chunk(rank).count, 0}};
  return {chunk(rank), chunk(chunks - 1 - rank)};
}

}  // namespace HEED_ISA
}  // namespace heed::distributed
