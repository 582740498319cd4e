// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The attention of all layers, by heed, and the keys and values that it remembers: a cache per layer, of a type that is
// chosen when the program runs.

#include "heed/cache.hpp"
#include "heed/softmax.hpp"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace chat {

using heed::index_t;

class key_value_cache {
 public:
  // type: f32, bf16, f16 or int8. capacity: the most tokens. Allocates all memory, and heed writes zeros to it. Throws
  // std::length_error where that is more than the machine has: the capacity may come from a file.
  key_value_cache(std::string_view type, index_t layers, index_t kv_heads, index_t dim, index_t capacity)
      : layers_(make(type)), capacity_(capacity) {
    const index_t row = dim * bytes_of_number() + (type == "int8" ? static_cast<index_t>(sizeof(float)) : 0);
    const double needed = 2. * static_cast<double>(layers * kv_heads) * static_cast<double>(capacity * row);
    const double machine = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
    if (needed > machine)
      throw std::length_error("a cache of " + std::to_string(capacity) + " tokens as " + std::string(type) + " needs " +
                              std::to_string(std::llround(needed * 1e-6)) + " MB, this machine has " +
                              std::to_string(std::llround(machine * 1e-6)) + " MB");
    bytes_ = static_cast<index_t>(needed);
    std::visit(
        [&](auto& caches) {
          for (index_t i = 0; i < layers; ++i) caches.emplace_back(1, kv_heads, capacity, dim, dim);
        },
        layers_);
  }

  index_t capacity() const { return capacity_; }
  index_t bytes() const { return bytes_; }
  index_t length() const {
    return std::visit([](const auto& caches) { return caches.empty() ? 0 : caches.back().length(0); }, layers_);
  }
  double seconds() const { return seconds_; }  // in attention, so far

  // Computes causal attention of the next tokens in one layer: q and o (1, heads, tokens, dim), k and v with kv_heads.
  void attend(index_t layer, heed::tensor_view<const float, 4> q, heed::tensor_view<const float, 4> k,
              heed::tensor_view<const float, 4> v, heed::tensor_view<float, 4> o, const heed::context& context) {
    const auto begin = std::chrono::steady_clock::now();
    const heed::softmax::options<> options{.mask = heed::causal()};
    std::visit(
        [&](auto& caches) {
          auto& cache = caches[static_cast<std::size_t>(layer)];
          const bool prompt = cache.length(0) == 0;
          cache.append(k, v);  // first: a token sees itself
          if (prompt)
            heed::softmax::forward(q, k, v, o, options, context);  // all tokens are new: nothing is read back
          else
            heed::softmax::decode(q, cache, o, options, context);
        },
        layers_);
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  template <class T> using caches_of = std::vector<heed::cache::contiguous<T>>;
  using any_caches =
      std::variant<caches_of<float>, caches_of<heed::bf16_t>, caches_of<heed::f16_t>, caches_of<std::int8_t>>;

  static any_caches make(std::string_view type) {
    if (type == "f32") return caches_of<float>();
    if (type == "bf16") return caches_of<heed::bf16_t>();
    if (type == "f16") return caches_of<heed::f16_t>();
    if (type == "int8") return caches_of<std::int8_t>();
    throw std::invalid_argument("the cache is " + std::string(type) + ", must be f32, bf16, f16 or int8");
  }
  index_t bytes_of_number() const {
    constexpr index_t bytes[] = {4, 2, 2, 1};
    return bytes[layers_.index()];
  }

  any_caches layers_;
  index_t capacity_, bytes_ = 0;
  double seconds_ = 0;
};

}  // namespace chat
