// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the verbs over several ranks need of a network. heed/distributed/threads.hpp has one of threads in one process,
// heed/interop/mpi.hpp one on MPI; a class with these members is another.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <span>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed::distributed {

// Rank 0 to size() - 1 of a group, each used by one thread. Peers are ranks; bytes are plain data.
//   start_send, start_receive   begin a message and return at once. Messages of one channel (0 to 7) from one rank to
//                               another arrive in the order of their start, and both sides name the same size. The
//                               memory must stay as it is until the request is done or cancelled.
//   wait(r, t)                  true: r is done, its memory is free again. false: not yet, after at most t. t = 0 asks.
//   cancel(r)                   gives a request up; true: its memory will not be touched any more
//   all_gather(mine, all, t)    all = what every rank gave, in the order of ranks; mine has the same size on each.
//                               false: some rank did not come within t
//   abandon(text)               says that this rank will take part in nothing else; peers that wait are told where the
//                               network can. Every later call of any member but cancel, rank, size and abandon, of
//                               which the first text stays, throws.
// All but rank, size, cancel and abandon may throw heed::error, where the network itself has failed.
template <class N>
concept network = requires(N& n, typename N::request& r, index_t peer, int channel, std::span<const std::byte> out,
                           std::span<std::byte> in, std::chrono::milliseconds t, const char* text) {
  { n.rank() } -> std::convertible_to<index_t>;
  { n.size() } -> std::convertible_to<index_t>;
  { n.start_send(peer, channel, out) } -> std::same_as<typename N::request>;
  { n.start_receive(peer, channel, in) } -> std::same_as<typename N::request>;
  { n.wait(r, t) } -> std::same_as<bool>;
  { n.cancel(r) } -> std::same_as<bool>;
  { n.all_gather(out, in, t) } -> std::same_as<bool>;
  n.abandon(text);
};

}  // namespace heed::distributed
