// SPDX-License-Identifier: BSD-3-Clause
//
// Shows who sees whom: the letters of a word under different masks. Each row shows in percent how much one letter
// attends to each other letter; a dot is a letter that it does not see. A letter attends to an equal letter 20 times as
// much as to another.
// g++ -std=c++20 -O2 -march=native -I include masks.cpp
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <vector>

#include "heed/softmax.hpp"

constexpr std::string_view word = "abracadabra";
constexpr heed::index_t seq = 11, letters = 26;

// Returns the weights as a matrix: o sums the values by weight, so with one-hot values o is the matrix of the weights.
class weights {
 public:
  weights() : codes_(seq * letters), one_hot_(seq * seq), o_(seq * seq) {
    for (heed::index_t i = 0; i < seq; ++i) {
      codes_[at(i * letters + word[at(i)] - 'a')] = 1;
      one_hot_[at(i * seq + i)] = 1;
    }
  }

  // Takes the letters from `first` on, one row each.
  heed::tensor_view<const float, 4> under(const heed::mask& mask, heed::index_t first) {
    const auto codes = heed::matrix(codes_.data(), seq, letters);
    const auto o = heed::matrix(o_.data(), seq - first, seq);
    heed::softmax::forward(heed::slice(codes, 2, first, seq - first), codes, heed::matrix(one_hot_.data(), seq, seq), o,
                           {.mask = mask, .scale = std::log(20.)});
    return o;
  }

 private:
  static std::size_t at(heed::index_t i) { return static_cast<std::size_t>(i); }
  std::vector<float> codes_, one_hot_, o_;
};

// Prints the weights and counts errors: a weight must be 0 exactly where sees(place, key) is false.
template <class Sees> int show(const char* name, const heed::mask& mask, const Sees& sees, heed::index_t first = 0) {
  weights all;
  const auto weight = all.under(mask, first);
  int wrong = 0;
  std::printf("\n%s\n ", name);
  for (const char letter : word) std::printf("%4c", letter);
  for (heed::index_t i = 0; i < weight.extent(2); ++i) {
    const heed::index_t place = first + i;
    std::printf("\n%c", word[static_cast<std::size_t>(place)]);
    for (heed::index_t key = 0; key < seq; ++key) {
      const float w = weight.data()[i * weight.stride(2) + key];
      wrong += (w > 0) != sees(place, key);
      if (w > 0)
        std::printf("%4.0f", static_cast<double>(100 * w));
      else
        std::printf("   .");
    }
  }
  std::printf("\n");
  return wrong;
}

int main() {
  using heed::index_t;
  int wrong = 0;

  wrong += show("causal()", heed::causal(), [](index_t place, index_t key) { return key <= place; });

  wrong += show("window(3): itself and the 3 before it", heed::window(3),
                [](index_t place, index_t key) { return place - 3 <= key && key <= place; });

  wrong += show("window(2, 0, 1): the first letter stays visible", heed::window(2, 0, 1),
                [](index_t place, index_t key) { return (place - 2 <= key || key < 1) && key <= place; });

  // Three texts lie end to end: abra, cad, abra. Places and keys count from the start of each.
  const std::vector<std::int32_t> offsets{0, 4, 7, 11};
  const auto text_of = [](index_t i) { return i < 4 ? 0 : i < 7 ? 1 : 2; };
  wrong += show("packed(offsets, offsets) & causal()", heed::packed(offsets, offsets) & heed::causal(),
                [&](index_t place, index_t key) { return text_of(place) == text_of(key) && key <= place; });

  const std::vector<std::int32_t> prefix{4};
  wrong += show("prefix_lm(4): a prompt that sees itself whole, then causal", heed::prefix_lm(prefix),
                [](index_t place, index_t key) { return key <= place || key < 4; });

  // Your own rule joins with the others. The mask stores it by value: at most 32 bytes, trivially copyable.
  std::int32_t gap = 3;
  const auto every_third = [gap](const heed::position& at) { return (at.place - at.key) % gap == 0; };
  wrong += show("causal() & visible_if(every third)", heed::causal() & heed::visible_if(every_third),
                [](index_t place, index_t key) { return key <= place && (place - key) % 3 == 0; });

  // With the default alignment, fewer queries than keys are the newest tokens: their places are at the end of the keys.
  wrong += show("causal() for the last two letters alone", heed::causal(),
                [](index_t place, index_t key) { return key <= place; }, 9);

  std::printf("\n%d pairs are not as the rules say\n", wrong);
  return wrong == 0 ? 0 : 1;
}
