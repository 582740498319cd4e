// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A call as the recurrent engine takes it, and parts of the engine with scratch of their own.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/linear/options.hpp"
#include "heed/recurrent/problem.hpp"
#include "support/buffer.hpp"
#include "support/random.hpp"

namespace heed_test {

struct recurrent_shape {
  index_t batch = 1, heads = 1, kv_heads = 1, states = 1, queries = 1, keys = 1, d = 1, e = 1;
};

// Tensors, options and decay of a call; problem() refers to them.
template <class T> struct recurrent_problem {
  recurrent_shape s;
  index_t sequences, features;
  heed::linear::options<T> options;
  heed::detail::decay_parts<T> decay = {};
  bool decays = false, causal = true;
  buffer<T> q, k, v, o, s0, s1, z0, z1;

  explicit recurrent_problem(const recurrent_shape& size, heed::linear::options<T> opt = {}, layout in = layout::bhsd,
                             index_t count = -1)
      : s(size),
        sequences(count < 0 ? s.batch : count),
        features(heed::detail::feature_dim(heed::detail::parts(opt.feature), s.d)),
        options(opt),
        q(buffer<T>::input({s.batch, s.heads, s.queries, s.d}, in)),
        k(buffer<T>::input({s.batch, s.kv_heads, s.keys, s.d}, in)),
        v(buffer<T>::input({s.batch, s.kv_heads, s.keys, s.e}, in)),
        o(buffer<T>::output({s.batch, s.heads, s.queries, s.e}, in)),
        s0(buffer<T>::input({sequences, s.states, features, s.e})),
        s1(buffer<T>::output({sequences, s.states, features, s.e})),
        z0(buffer<T>::input({sequences, s.states, features, 1})),
        z1(buffer<T>::output({sequences, s.states, features, 1})) {
    random_numbers random(31);
    q.randomize(random), k.randomize(random), v.randomize(random), s0.randomize(random), z0.randomize(random);
  }

  heed::recurrent::recurrence<T> problem() const {
    const auto out = o.view();
    heed::recurrent::recurrence<T> p(options, heed::tile::rows_of_call(q.cview(), k.cview(), v.cview(), out));
    p.align = &heed::detail::parts(options.align), p.map = heed::detail::parts(options.feature);
    p.normalize = options.normalize, p.eps = options.eps, p.causal = causal, p.states = s.states;
    if (decays) p.decay = &decay;
    heed::recurrent::derive_sizes(p);
    return p;
  }
};

// Memory of NaN for the scratch of X(args..., arena): what is read must have been written.
template <class X> class with_scratch {
 public:
  template <class... Args>
  explicit with_scratch(const Args&... args)
      : bytes_(count(args...), std::byte{0xff}), arena_(bytes_, bytes_.size()), part(args..., arena_) {}

  // Whether n numbers from x on lie in that memory
  template <class T> bool holds(const T* x, index_t n) const {
    const auto* const first = reinterpret_cast<const std::byte*>(x);
    return first >= bytes_.data() && first + static_cast<std::size_t>(n) * sizeof(T) <= bytes_.data() + bytes_.size();
  }

 private:
  template <class... Args> static std::size_t count(const Args&... args) {
    heed::detail::arena counting;
    static_cast<void>(X(args..., counting));
    return counting.needed();
  }
  std::vector<std::byte> bytes_;
  heed::detail::arena arena_;

 public:
  X part;
};

// A 64-byte aligned block of numbers, as tiles are
template <class T> class aligned_numbers {
 public:
  explicit aligned_numbers(index_t count) : memory_(buffer<T>::output({1, 1, 1, count})) {}
  T* data() const { return memory_.view().data(); }
  T& operator[](index_t i) const { return data()[i]; }

 private:
  buffer<T> memory_;
};

}  // namespace heed_test
