// SPDX-License-Identifier: BSD-3-Clause
//
// Reads a prompt, then decodes token by token with each kind of key/value cache, and compares with one forward over all
// tokens.   g++ -std=c++20 -O2 -march=native -I include kv_cache.cpp
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "heed/cache.hpp"
#include "heed/softmax.hpp"

namespace {

using heed::index_t;
constexpr index_t heads = 8, kv_heads = 2, dim = 64, prompt = 150, total = 200;

// Returns a number between -2 and 2, the same one for the same i: it looks random.
float number(index_t i) {
  auto x = static_cast<std::uint32_t>(i) * 2654435761u;
  x = (x ^ x >> 15) * 2246822519u;
  return static_cast<float>(x ^ x >> 13) / 1073741824.f - 2;
}

// q, k, v and o of all tokens, as the layers around attention would make them step by step. All sequences begin with
// the same prompt.
class tokens {
 public:
  explicit tokens(index_t sequences)
      : sequences_(sequences), q_(size(heads)), k_(size(kv_heads)), v_(k_.size()), o_(q_.size()) {
    fill(q(0, total), 0), fill(k(0, total), 10), fill(v(0, total), 20);
  }

  // Views of the tokens [first, first + count) of all sequences
  heed::tensor_view<float, 4> q(index_t first, index_t count) { return rows(q_, heads, first, count); }
  heed::tensor_view<float, 4> k(index_t first, index_t count) { return rows(k_, kv_heads, first, count); }
  heed::tensor_view<float, 4> v(index_t first, index_t count) { return rows(v_, kv_heads, first, count); }
  heed::tensor_view<float, 4> o(index_t first, index_t count) { return rows(o_, heads, first, count); }

  // The largest difference between o and one forward over all tokens
  float error(const heed::softmax::options<>& options) {
    std::vector<float> expected(o_.size());
    heed::softmax::forward(q(0, total), k(0, total), v(0, total), rows(expected, heads, 0, total), options);
    float most = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) most = std::max(most, std::abs(o_[i] - expected[i]));
    return most;
  }

 private:
  static void fill(const heed::tensor_view<float, 4>& x, index_t seed) {
    for (index_t b = 0; b < x.extent(0); ++b)
      for (index_t h = 0; h < x.extent(1); ++h)
        for (index_t t = 0; t < total; ++t)
          for (index_t d = 0; d < dim; ++d)
            x(b, h, t, d) = number((((seed + (t < prompt ? 0 : b + 1)) * heads + h) * total + t) * dim + d);
  }
  std::size_t size(index_t head_count) const { return static_cast<std::size_t>(sequences_ * head_count * total * dim); }
  heed::tensor_view<float, 4> rows(std::vector<float>& x, index_t head_count, index_t first, index_t count) const {
    return heed::slice(heed::bhsd(x.data(), sequences_, head_count, total, dim), 2, first, count);
  }

  index_t sequences_;
  std::vector<float> q_, k_, v_, o_;
};

bool report(const char* cache, index_t held, index_t room, float error) {
  std::printf("%-10s  %3td tokens, room for %3td   largest error %.1e\n", cache, held, room, double{error});
  return error < 1e-4f;
}

// A row for each token. The prompt is read by forward, which is the fastest way to read many tokens.
bool use_contiguous() {
  tokens x(1);
  heed::cache::contiguous<float> cache(1, kv_heads, total, dim, dim);  // one sequence of up to `total` tokens
  const heed::softmax::options<> options{.mask = heed::causal()};
  heed::softmax::forward(x.q(0, prompt), x.k(0, prompt), x.v(0, prompt), x.o(0, prompt), options);
  cache.append(x.k(0, prompt), x.v(0, prompt));
  for (index_t t = prompt; t < total; ++t) {
    cache.append(x.k(t, 1), x.v(t, 1));  // first: a token sees itself
    heed::softmax::decode(x.q(t, 1), cache, x.o(t, 1), options);
  }
  return report("contiguous", cache.length(0), cache.capacity(), x.error(options));
}

// The first 4 tokens and a window of 64. The prompt comes in chunks of 16: decode takes any number of new tokens. The
// oldest of a chunk looks back over 64 tokens too, so the ring has 15 more rows.
bool use_ring() {
  constexpr index_t sinks = 4, window = 64, chunk = 16;
  tokens x(1);
  heed::cache::ring<float> cache(1, kv_heads, sinks + window + chunk - 1, dim, dim, sinks);
  const heed::softmax::options<> options{.mask = heed::causal() & heed::window(window - 1, 0, sinks)};
  for (index_t t = 0, n = 0; t < total; t += n) {
    n = t < prompt ? std::min(chunk, prompt - t) : 1;
    cache.append(x.k(t, n), x.v(t, n));
    heed::softmax::decode(x.q(t, n), cache, x.o(t, n), options);
  }
  return report("ring", cache.length(0), cache.capacity(), x.error(options));
}

// Three sequences share the pages of their prompt; then each has tokens of its own. One decode serves all of them.
bool use_paged() {
  constexpr index_t sequences = 3, page = 16, pages = 21;
  tokens x(sequences);
  heed::cache::paged<float> cache(pages, page, kv_heads, dim, dim, sequences);
  const heed::softmax::options<> options{.mask = heed::causal()};
  heed::softmax::forward(x.q(0, prompt), x.k(0, prompt), x.v(0, prompt), x.o(0, prompt), options);
  cache.append(0, heed::slice(x.k(0, prompt), 0, 0, 1), heed::slice(x.v(0, prompt), 0, 0, 1));
  cache.fork(0, 1), cache.fork(0, 2);
  std::printf("%-10s  %td sequences of %td tokens in %td pages of %td\n", "forked", sequences, cache.length(2),
              cache.pages() - cache.free_pages(), page);
  for (index_t t = prompt; t < total; ++t) {
    cache.append(x.k(t, 1), x.v(t, 1));  // a token of each sequence
    heed::softmax::decode(x.q(t, 1), cache, x.o(t, 1), options);
  }
  return report("paged", sequences * total, (pages - cache.free_pages()) * page, x.error(options));
}

}  // namespace

int main() {
  const bool good[] = {use_contiguous(), use_ring(), use_paged()};
  return good[0] && good[1] && good[2] ? 0 : 1;
}
