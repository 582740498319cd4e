// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// MPI as the network of heed/distributed/. Include it by name and compile with MPI (mpicxx, or CMake's MPI::MPI_CXX).

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "heed/core/error.hpp"
#include "heed/core/message.hpp"
#include "heed/distributed/network.hpp"

namespace heed {

// The ranks of an MPI communicator, for example of MPI_COMM_WORLD:
//   heed::mpi_network net;
//   heed::distributed::softmax::forward(net, q, k, v, o, {.mask = heed::causal()});
// It works on a duplicate of the communicator, so all ranks make and destroy it together, between MPI_Init and
// MPI_Finalize, and its messages meet no other. Errors of MPI in it are heed::error. One thread at a time uses it:
// MPI_THREAD_FUNNELED will do for the thread that called MPI_Init. With executors of several threads heed calls MPI
// from the calling thread alone.
class mpi_network {
 public:
  // A message in pieces of at most `most` bytes, since MPI counts in int
  struct request {
    std::vector<MPI_Request> pieces;
    bool sends = false;
  };
  static constexpr std::size_t most = std::size_t{1} << 30;

  HEED_INLINE explicit mpi_network(MPI_Comm of = MPI_COMM_WORLD, std::size_t piece = most)
      : piece_(std::clamp<std::size_t>(piece, 1, most)) {
    check(MPI_Comm_dup(of, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  // Frees the communicator, but for one that was abandoned: its messages may still be on their way.
  HEED_INLINE ~mpi_network() {
    int over = 0;
    if (MPI_Finalized(&over) == MPI_SUCCESS && over == 0 && reason_.empty()) MPI_Comm_free(&comm_);
  }
  mpi_network(const mpi_network&) = delete;
  mpi_network& operator=(const mpi_network&) = delete;

  HEED_INLINE index_t rank() const { return rank_; }
  HEED_INLINE index_t size() const { return size_; }

  HEED_INLINE request start_send(index_t to, int channel, std::span<const std::byte> bytes) {
    check_open();
    request r{{}, true};
    for (std::size_t at = 0; at < bytes.size(); at += piece_)
      check(MPI_Isend(bytes.data() + at, piece_at(bytes.size(), at), MPI_BYTE, static_cast<int>(to), channel, comm_,
                      &r.pieces.emplace_back(MPI_REQUEST_NULL)),
            "MPI_Isend");
    return r;
  }
  HEED_INLINE request start_receive(index_t from, int channel, std::span<std::byte> bytes) {
    check_open();
    request r{{}, false};
    for (std::size_t at = 0; at < bytes.size(); at += piece_)
      check(MPI_Irecv(bytes.data() + at, piece_at(bytes.size(), at), MPI_BYTE, static_cast<int>(from), channel, comm_,
                      &r.pieces.emplace_back(MPI_REQUEST_NULL)),
            "MPI_Irecv");
    return r;
  }
  HEED_INLINE bool wait(request& r, std::chrono::milliseconds timeout) {
    check_open();
    return wait_for(r.pieces, timeout);
  }
  // MPI cannot take back every message that is being sent: false, its memory must then stay.
  HEED_INLINE bool cancel(request& r) {
    int done = 0;
    for (MPI_Request& each : r.pieces) {
      if (each == MPI_REQUEST_NULL) continue;
      if (MPI_Test(&each, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done != 0) continue;
      if (r.sends) return false;
      if (MPI_Cancel(&each) != MPI_SUCCESS || MPI_Wait(&each, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    }
    return true;
  }
  HEED_INLINE bool all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                              std::chrono::milliseconds timeout) {
    check_open();
    if (all.size() != mine.size() * static_cast<std::size_t>(size_) || mine.size() > most)
      heed::detail::fail("mpi_network: all_gather of % bytes into %", mine.size(), all.size());
    // memory of its own: a collective that does not end cannot be cancelled
    auto memory = std::make_unique<std::vector<std::byte>>(mine.begin(), mine.end());
    memory->resize(mine.size() + all.size());
    std::vector<MPI_Request> running(1, MPI_REQUEST_NULL);
    const int count = static_cast<int>(mine.size());
    check(MPI_Iallgather(memory->data(), count, MPI_BYTE, memory->data() + mine.size(), count, MPI_BYTE, comm_,
                         running.data()),
          "MPI_Iallgather");
    if (!wait_for(running, timeout)) {
      static_cast<void>(memory.release());  // MPI may still write there
      return false;
    }
    std::copy(memory->begin() + static_cast<std::ptrdiff_t>(mine.size()), memory->end(), all.begin());
    return true;
  }
  // Other ranks learn of it by their timeouts: MPI has no message that all wait for.
  HEED_INLINE void abandon(const char* text) { reason_ = text; }

 private:
  HEED_INLINE void check_open() const {
    if (!reason_.empty()) heed::detail::fail("mpi_network: abandoned: %", reason_.c_str());
  }
  HEED_INLINE static void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING + 1] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    heed::detail::fail("%: %", call, static_cast<const char*>(text));
  }
  HEED_INLINE int piece_at(std::size_t size, std::size_t at) const {
    return static_cast<int>(std::min(piece_, size - at));
  }
  HEED_INLINE static bool wait_for(std::vector<MPI_Request>& pieces, std::chrono::milliseconds timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    for (int turn = 0;; ++turn) {
      int done = 0;
      check(MPI_Testall(static_cast<int>(pieces.size()), pieces.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
      if (done != 0) return true;
      if (std::chrono::steady_clock::now() >= end) return false;
      if (turn > 100) std::this_thread::yield();  // ranks may share a core
    }
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 0;
  std::size_t piece_;
  std::string reason_;  // why it was abandoned
};

}  // namespace heed
