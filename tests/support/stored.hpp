// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Tensors of a storage type that is chosen at run time, so that one test runs all of them.

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "heed/core/types.hpp"
#include "support/buffer.hpp"
#include "support/comparison.hpp"
#include "support/layouts.hpp"
#include "support/tensors.hpp"
#include "support/tolerance.hpp"

namespace heed_test {

using any_input = std::variant<input<float>, input<heed::bf16_t>, input<heed::f16_t>>;
using any_output = std::variant<output<float>, output<heed::bf16_t>, output<heed::f16_t>>;

enum class stored { f32, bf16, f16 };  // as in the variants
inline constexpr stored all_stored[] = {stored::f32, stored::bf16, stored::f16};
inline constexpr stored half_types[] = {stored::bf16, stored::f16};

inline const char* name_of(stored type) {
  constexpr const char* names[] = {"float", "bf16", "f16"};
  return names[static_cast<int>(type)];
}
inline storage_rounding rounding_of(stored type) {
  return type == stored::bf16 ? bf16_rounding : type == stored::f16 ? f16_rounding : storage_rounding{};
}
// x as it is stored
inline float rounded(stored type, float x) {
  return type == stored::bf16  ? static_cast<float>(heed::bf16_t(x))
         : type == stored::f16 ? static_cast<float>(heed::f16_t(x))
                               : x;
}

// The storage types of q, of k and v, and of o
struct type_mix {
  stored q, kv, o;

  static type_mix all(stored type) { return {type, type, type}; }
  bool all_bf16() const { return q == stored::bf16 && kv == stored::bf16; }
};
inline std::string to_string(const type_mix& m) {
  return std::string(name_of(m.q)) + ", " + name_of(m.kv) + " -> " + name_of(m.o);
}
template <class F> void each_mix(F f) {
  for (const stored q : all_stored)
    for (const stored kv : all_stored)
      for (const stored o : all_stored) f(type_mix{q, kv, o});
}

// A buffer of a storage type, and float numbers written to or read from it.
class stored_buffer {
 public:
  static stored_buffer input(stored type, const extents& n, layout how, index_t skew) {
    return make(type, [&](auto of) { return buffer<typename decltype(of)::type>::input(n, how, skew); });
  }
  static stored_buffer output(stored type, const extents& n, layout how, index_t skew) {
    return make(type, [&](auto of) { return buffer<typename decltype(of)::type>::output(n, how, skew); });
  }

  any_input cview() const {
    return std::visit([](const auto& x) { return any_input(x.cview()); }, memory_);
  }
  any_output view() const {
    return std::visit([](const auto& x) { return any_output(x.view()); }, memory_);
  }
  std::uint64_t hash() const {
    return std::visit([](const auto& x) { return x.hash(); }, memory_);
  }
  bool canaries_alive() const {
    return std::visit([](const auto& x) { return x.canaries_alive(); }, memory_);
  }
  bool all_written() const {
    return std::visit([](const auto& x) { return heed_test::all_written(x); }, memory_);
  }
  bool untouched() const {
    return std::visit([](const auto& x) { return x.untouched(); }, memory_);
  }
  void poison() {
    std::visit([](auto& x) { x.poison(); }, memory_);
  }

  // Writes the numbers of `from`, which become what is stored.
  void take(const buffer<float>& from) const {
    each(from, [](auto& mine, float& number) {
      mine = static_cast<std::remove_reference_t<decltype(mine)>>(number), number = static_cast<float>(mine);
    });
  }
  void copy_to(const buffer<float>& to) const {
    each(to, [](auto& mine, float& number) { number = static_cast<float>(mine); });
  }

 private:
  template <class T> struct type_of {
    using type = T;
  };
  template <class F> static stored_buffer make(stored type, F f) {
    if (type == stored::bf16) return stored_buffer(f(type_of<heed::bf16_t>{}));
    if (type == stored::f16) return stored_buffer(f(type_of<heed::f16_t>{}));
    return stored_buffer(f(type_of<float>{}));
  }
  template <class T> explicit stored_buffer(buffer<T> x) : memory_(std::move(x)) {}

  template <class F> void each(const buffer<float>& other, F f) const {  // f(element, element of other)
    std::visit(
        [&](const auto& x) {
          const auto [batches, heads, rows, dim] = other.size();
          for (index_t i = 0; i < batches * heads * rows * dim; ++i) {
            const index_t b = i / (heads * rows * dim), h = i / (rows * dim) % heads, n = i / dim % rows, d = i % dim;
            f(x(b, h, n, d), other(b, h, n, d));
          }
        },
        memory_);
  }

  std::variant<buffer<float>, buffer<heed::bf16_t>, buffer<heed::f16_t>> memory_;
};

// The tensors of a call as they are stored; the numbers are those of a case in float.
struct stored_tensors {
  type_mix types;
  stored_buffer q, k, v, o;

  template <class Case>
  stored_tensors(const Case& x, const type_mix& m, const layouts& in)
      : types(m),
        q(stored_buffer::input(m.q, x.q.size(), in.q, in.skew)),
        k(stored_buffer::input(m.kv, x.k.size(), in.k, in.skew)),
        v(stored_buffer::input(m.kv, x.v.size(), in.v, in.skew)),
        o(stored_buffer::output(m.o, x.o.size(), in.o, in.skew)) {
    take(x);
  }
  template <class Case> void take(const Case& x) const { q.take(x.q), k.take(x.k), v.take(x.v); }
  std::uint64_t hash() const { return q.hash() ^ 3 * k.hash() ^ 5 * v.hash(); }
};

}  // namespace heed_test
