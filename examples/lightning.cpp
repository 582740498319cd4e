// SPDX-License-Identifier: BSD-3-Clause
//
// Lightning attention over a stream of any length in constant memory: a file is read block by block, each byte is a
// token, and the state goes from block to block.   g++ -std=c++20 -O2 -march=native -I include lightning.cpp
//
//   lightning [FILE]     default: a million bytes made up here
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "heed/lightning.hpp"
#include "heed/slopes.hpp"

namespace {

using heed::index_t;
constexpr index_t heads = 4, dim = 64, block = 4096;

// One number of a fixed random vector for each head and byte
float code(index_t head, int byte, index_t d, int salt) {
  auto x = static_cast<std::uint32_t>(((head * 256 + byte) * dim + d) * 3 + salt) * 2654435761u;
  x = (x ^ x >> 15) * 2246822519u;
  return (x >> 16 & 1 ? 1.f : -1.f) / 8;
}

unsigned char made_up(index_t i) { return static_cast<unsigned char>(i * i / 7); }

struct tokens {
  std::vector<float> q, k, v, o;
  tokens() : q(heads * block * dim), k(q.size()), v(q.size()), o(q.size()) {}

  // Attention for `count` bytes; what came before them is in the state.
  void attend(const unsigned char* bytes, index_t count, heed::state<float>& memory) {
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < count; ++i)
        for (index_t d = 0; d < dim; ++d) {
          const auto at = static_cast<std::size_t>((h * block + i) * dim + d);
          q[at] = code(h, bytes[i], d, 0), k[at] = code(h, bytes[i], d, 1), v[at] = code(h, bytes[i], d, 2);
        }
    const auto rows = [count](auto& x) { return heed::slice(heed::bhsd(x.data(), 1, heads, block, dim), 2, 0, count); };
    heed::lightning::forward(rows(q), rows(k), rows(v), heed::alibi_slopes(heads), rows(o),
                             {.initial_state = memory, .final_state = memory});
  }
};

// The same bytes as one block and as four: the state carries all that is needed.
bool streams_alike() {
  constexpr index_t count = 3500;
  std::vector<unsigned char> bytes;
  for (index_t i = 0; i < count; ++i) bytes.push_back(made_up(i));
  heed::state<float> once(1, heads, dim, dim), parts(1, heads, dim, dim);
  tokens whole, part;
  whole.attend(bytes.data(), count, once);
  float difference = 0;
  for (index_t first = 0; first < count; first += 1000) {
    const index_t n = std::min<index_t>(1000, count - first);
    part.attend(bytes.data() + first, n, parts);
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < n * dim; ++i)
        difference = std::max(difference, std::abs(part.o[static_cast<std::size_t>(h * block * dim + i)] -
                                                   whole.o[static_cast<std::size_t>((h * block + first) * dim + i)]));
  }
  std::printf("one block against several: largest difference %.1e\n", static_cast<double>(difference));
  return difference < 1e-4f;
}

}  // namespace

int main(int argc, char** argv) {
  std::FILE* const file = argc > 1 ? std::fopen(argv[1], "rb") : nullptr;
  if (argc > 1 && file == nullptr) return std::fprintf(stderr, "%s: cannot be read\n", argv[1]), 2;
  heed::state<float> memory(1, heads, dim, dim);
  tokens now;
  std::vector<unsigned char> bytes(block);
  double seconds = 0;
  index_t done = 0;
  for (;;) {
    index_t count = 0;
    if (file != nullptr)
      count = static_cast<index_t>(std::fread(bytes.data(), 1, bytes.size(), file));
    else
      for (; count < block && done + count < 1'000'000; ++count)
        bytes[static_cast<std::size_t>(count)] = made_up(done + count);
    if (count == 0) break;
    const auto start = std::chrono::steady_clock::now();
    now.attend(bytes.data(), count, memory);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    done += count;
    if (isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "\r%td tokens", done);
  }
  if (isatty(STDERR_FILENO) != 0) std::fputs("\r", stderr);
  const bool failed = file != nullptr && std::ferror(file) != 0;
  if (file != nullptr) std::fclose(file);
  if (failed) return std::fprintf(stderr, "%s: cannot be read\n", argv[1]), 2;
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  std::printf("%td tokens, %td heads of %td: %.2f s, %.3g tokens/s with making them up, peak memory %.1f MB\n", done,
              heads, dim, seconds, done > 0 ? static_cast<double>(done) / seconds : 0,
              static_cast<double>(used.ru_maxrss) / 1e3);
  return streams_alike() ? 0 : 1;
}
