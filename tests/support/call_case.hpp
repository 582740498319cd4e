// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What the calls of all kernels have: tensors in a layout of choice, and what must hold after every call.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/comparison.hpp"
#include "support/layouts.hpp"
#include "support/random.hpp"
#include "support/shapes.hpp"
#include "support/tolerance.hpp"

namespace heed_test {

// q, k and v hold random numbers; more may be drawn from `generator`.
template <class T> struct call_case {
  shape s;
  random_numbers generator;
  buffer<T> q, k, v, o;

  call_case(const shape& size, const layouts& in, std::uint32_t seed)
      : s(size),
        generator(seed),
        q(buffer<T>::input({s.batch, s.heads, s.queries, s.dim}, in.q, in.skew)),
        k(buffer<T>::input({s.batch, s.kv_heads, s.keys, s.dim}, in.k, in.skew)),
        v(buffer<T>::input({s.batch, s.kv_heads, s.keys, s.value_dim}, in.v, in.skew)),
        o(buffer<T>::output({s.batch, s.out_heads(), s.queries, s.value_dim}, in.o, in.skew)) {
    q.randomize(generator), k.randomize(generator), v.randomize(generator);
  }
};

template <class T> using buffers = std::vector<const buffer<T>*>;

// Runs the call. Its results must be as compare() expects them, its inputs unchanged, nothing written outside the
// outputs, and every element of `written` written.
template <class T, class Run, class Compare>
void check_call(const buffers<T>& inputs, const buffers<T>& outputs, const buffers<T>& written, const Run& run,
                const Compare& compare) {
  const auto hashes = [&] {
    std::vector<std::uint64_t> all;
    for (const buffer<T>* x : inputs) all.push_back(x->hash());
    return all;
  };
  const std::vector<std::uint64_t> before = hashes();
  run();
  const bool inputs_unchanged = hashes() == before;
  const verdict result = compare();
  INFO(result.where);
  const bool canaries_alive = std::all_of(outputs.begin(), outputs.end(), [](auto* x) { return x->canaries_alive(); });
  const bool outputs_written = std::all_of(written.begin(), written.end(), [](auto* x) { return all_written(*x); });
  CHECK(result.worst <= 1);
  CHECK(inputs_unchanged);
  CHECK(canaries_alive);
  CHECK(outputs_written);
}

}  // namespace heed_test
