// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// How the tensors of a call lie in memory, and what they hold, out of bytes.

#include "fuzz/bytes.hpp"
#include "support/call_case.hpp"
#include "support/layouts.hpp"
#include "support/stored.hpp"

namespace heed_test {

inline layout read_layout(bytes& in, bool written) {
  return written ? output_layouts[in.below(6)] : input_layouts[in.below(8)];
}
inline layouts read_layouts(bytes& in) {
  layouts all;
  if (!in.one_in(3)) return all;
  all = {read_layout(in, false), read_layout(in, false), read_layout(in, false),
         read_layout(in, true),  read_layout(in, true),  in.below(4)};
  tell("q ", name_of(all.q), ", k ", name_of(all.k), ", v ", name_of(all.v), ", o ", name_of(all.o), ", lse ",
       name_of(all.lse), ", skew ", all.skew);
  return all;
}
// Of a case in float whose tensors are stored otherwise
inline layouts of_float(const layouts& all) { return {.lse = all.lse, .skew = all.skew}; }
// All written
inline layouts read_gradient_layouts(bytes& in) {
  if (!in.one_in(4)) return {};
  const auto one = [&] { return read_layout(in, true); };
  return {one(), one(), one(), one(), one(), in.below(4)};
}
inline type_mix read_types(bytes& in) {
  const auto one = [&] { return in.of({stored::f32, stored::f32, stored::bf16, stored::f16}); };
  type_mix types{one(), one(), one()};
  if (in.one_in(4)) types = type_mix::all(stored::bf16);
  tell(to_string(types));
  return types;
}

// Stores the numbers of a case, with NaN in the padding, and takes them back: entries of stride 0 share them.
template <class Case> void store_anew(stored_tensors& at, const Case& x) {
  at.q.poison(), at.k.poison(), at.v.poison(), at.take(x);
  at.q.copy_to(x.q), at.k.copy_to(x.k), at.v.copy_to(x.v);
}

// A copy of numbers in a type of storage; of double there is none
inline stored_buffer stored_as(stored type, const buffer<float>& numbers) {
  stored_buffer at = stored_buffer::input(type, numbers.size(), layout::bhsd, 0);
  at.take(numbers);
  return at;
}
inline int stored_as(stored, const buffer<double>&) { return 0; }

template <class T> std::uint64_t hash_of(const buffers<T>& all) {
  std::uint64_t sum = 0;
  for (const buffer<T>* each : all) sum = 31 * sum + each->hash();
  return sum;
}

template <class T> void copy_numbers(const buffer<T>& from, const buffer<T>& to) {
  const auto [b, h, n, d] = from.size();
  for (index_t i = 0; i < b * h * n * d; ++i) {
    const index_t ib = i / (h * n * d), ih = i / (n * d) % h, in = i / d % n, id = i % d;
    to(ib, ih, in, id) = from(ib, ih, in, id);
  }
}

}  // namespace heed_test
