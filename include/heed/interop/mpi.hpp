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
  // A message in pieces of at most `most` bytes, since MPI counts in int. error: of a piece that could not be started;
  // wait() throws it, while those before it are kept to be cancelled.
  struct request {
    std::vector<MPI_Request> pieces;
    bool sends = false;
    int error = MPI_SUCCESS;
  };
  static constexpr std::size_t most = std::size_t{1} << 30;

  // piece: the largest piece of a message, in bytes, the same on all ranks
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
    return start(true, bytes.size(), [&](std::size_t at, int count, MPI_Request* piece) {
      return MPI_Isend(bytes.data() + at, count, MPI_BYTE, static_cast<int>(to), channel, comm_, piece);
    });
  }
  HEED_INLINE request start_receive(index_t from, int channel, std::span<std::byte> bytes) {
    check_open();
    return start(false, bytes.size(), [&](std::size_t at, int count, MPI_Request* piece) {
      return MPI_Irecv(bytes.data() + at, count, MPI_BYTE, static_cast<int>(from), channel, comm_, piece);
    });
  }
  HEED_INLINE bool wait(request& r, std::chrono::milliseconds timeout) {
    check_open();
    check(r.error, r.sends ? "MPI_Isend" : "MPI_Irecv");
    return wait_for(r.pieces, timeout);
  }
  // MPI takes back no message that is being sent, and no receive whose message has begun to come: that one ends when
  // its sender goes on, which may be never. false: the memory must then stay.
  HEED_INLINE bool cancel(request& r) {
    for (MPI_Request& each : r.pieces) {
      if (each == MPI_REQUEST_NULL || is_done(each, std::chrono::milliseconds(0))) continue;
      if (r.sends || MPI_Cancel(&each) != MPI_SUCCESS || !is_done(each, std::chrono::milliseconds(100))) return false;
    }
    return true;
  }
  HEED_INLINE bool all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                              std::chrono::milliseconds timeout) {
    check_open();
    if (all.size() != mine.size() * static_cast<std::size_t>(size_) || mine.size() > most)
      heed::detail::fail("mpi_network: all_gather of % bytes into %", mine.size(), all.size());
    // Memory of its own, kept where the gather does not end or fails: MPI may still write there.
    auto* const memory = new std::vector<std::byte>(mine.size() + all.size());
    std::copy(mine.begin(), mine.end(), memory->begin());
    std::vector<MPI_Request> running(1, MPI_REQUEST_NULL);
    const int count = static_cast<int>(mine.size());
    check(MPI_Iallgather(memory->data(), count, MPI_BYTE, memory->data() + mine.size(), count, MPI_BYTE, comm_,
                         running.data()),
          "MPI_Iallgather");
    if (!wait_for(running, timeout)) return false;
    const std::unique_ptr<std::vector<std::byte>> freed(memory);
    std::copy(memory->begin() + static_cast<std::ptrdiff_t>(mine.size()), memory->end(), all.begin());
    return true;
  }
  // Other ranks learn of it by their timeouts: MPI has no message that all wait for.
  HEED_INLINE void abandon(const char* text) {
    if (reason_.empty()) reason_ = std::string("mpi_network: abandoned: ") + text;
  }

 private:
  HEED_INLINE void check_open() const {
    if (!reason_.empty()) heed::detail::fail(reason_.c_str());
  }
  HEED_INLINE static void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING + 1] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    heed::detail::fail("%: %", call, static_cast<const char*>(text));
  }
  // start_piece(offset, count, request) for each piece, up to the first that fails
  template <class F> HEED_INLINE request start(bool sends, std::size_t size, const F& start_piece) const {
    request r{std::vector<MPI_Request>(size / piece_ + 1, MPI_REQUEST_NULL), sends};
    for (std::size_t i = 0; i * piece_ < size && r.error == MPI_SUCCESS; ++i) {
      r.error = start_piece(i * piece_, static_cast<int>(std::min(piece_, size - i * piece_)), &r.pieces[i]);
      if (r.error != MPI_SUCCESS) r.pieces[i] = MPI_REQUEST_NULL;
    }
    return r;
  }
  HEED_INLINE static bool is_done(MPI_Request& r, std::chrono::milliseconds timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    for (int done = 0;;) {
      if (MPI_Test(&r, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
      if (done != 0) return true;
      if (std::chrono::steady_clock::now() >= end) return false;
      std::this_thread::yield();
    }
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
