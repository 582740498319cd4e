// SPDX-License-Identifier: BSD-3-Clause
//
// heed behind plain C functions, for the comparison in peers.py. Tensors are contiguous: q (B, H, N, D), k (B, Hk, M,
// D), v (B, Hk, M, E), o (B, H, N, E). type: 0 float, 1 bf16, 2 f16, for q, k, v and o alike. A function returns 0, or
// 1 where the call was refused; heed_error() then says why.

#include <cstdint>
#include <exception>
#include <string>
#include <type_traits>

#include "heed/interop/openmp.hpp"
#include "heed/lightning.hpp"
#include "heed/local_linear.hpp"
#include "heed/softmax.hpp"

namespace {

struct sizes {
  std::int64_t batch, heads, kv_heads, queries, keys, dim, value_dim;
};

thread_local std::string error;

// Runs f(T{}) for the element type, on so many threads, and keeps the text of what it throws.
template <class F> int run(int type, std::int64_t threads, const F& f) {
  try {
    heed::openmp_executor executor(threads);
    heed::context context;
    if (threads > 1) context.executor = executor;
    if (type == 0) f(float{}, context);
    else if (type == 1) f(heed::bf16_t{}, context);
    else f(heed::f16_t{}, context);
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

template <class T> struct tensors {
  heed::tensor_view<const T, 4> q, k, v;
  heed::tensor_view<T, 4> o;

  tensors(const sizes& s, const void* q_, const void* k_, const void* v_, void* o_)
      : q(heed::bhsd(static_cast<const T*>(q_), s.batch, s.heads, s.queries, s.dim)),
        k(heed::bhsd(static_cast<const T*>(k_), s.batch, s.kv_heads, s.keys, s.dim)),
        v(heed::bhsd(static_cast<const T*>(v_), s.batch, s.kv_heads, s.keys, s.value_dim)),
        o(heed::bhsd(static_cast<T*>(o_), s.batch, s.heads, s.queries, s.value_dim)) {}
};

heed::mask mask_of(int causal) { return causal != 0 ? heed::causal() : heed::mask(); }

}  // namespace

extern "C" {

const char* heed_error() { return error.c_str(); }

// bias: null, or (1, H, N, M). lse: null, or (B, H, N).
int heed_softmax_forward(int type, const sizes* s, const void* q, const void* k, const void* v, const float* bias,
                         void* o, float* lse, int causal, std::int64_t threads) {
  return run(type, threads, [&](auto t, const heed::context& context) {
    const tensors<decltype(t)> x(*s, q, k, v, o);
    heed::softmax::options<> opt{.mask = mask_of(causal)};
    if (bias != nullptr) opt.bias = heed::bhsd(bias, 1, s->heads, s->queries, s->keys);
    if (lse != nullptr) opt.lse = heed::contiguous(lse, {s->batch, s->heads, s->queries});
    heed::softmax::forward(x.q, x.k, x.v, x.o, opt, context);
  });
}

// k and v are the cache: `keys` tokens of each sequence, all of them held. lengths: one number for each sequence.
int heed_softmax_decode(int type, const sizes* s, const void* q, const void* k, const void* v,
                        const std::int32_t* lengths, void* o, std::int64_t threads) {
  return run(type, threads, [&](auto t, const heed::context& context) {
    const tensors<decltype(t)> x(*s, q, k, v, o);
    const heed::lengths held(lengths, static_cast<std::size_t>(s->batch));
    heed::softmax::decode(x.q, heed::contiguous_cache(x.k, x.v, held), x.o, {.mask = heed::causal()}, context);
  });
}

// o and lse are what heed_softmax_forward wrote. float.
int heed_softmax_backward(const sizes* s, const float* q, const float* k, const float* v, float* o, float* lse,
                          const float* dout, float* dq, float* dk, float* dv, int causal, std::int64_t threads) {
  return run(0, threads, [&](auto t, const heed::context& context) {
    using T = std::conditional_t<std::is_same_v<decltype(t), float>, float, void>;
    if constexpr (std::is_same_v<T, float>) {
      const tensors<float> x(*s, q, k, v, o);
      const heed::tensor_view<const float, 4> cotangent =
          heed::bhsd(dout, s->batch, s->heads, s->queries, s->value_dim);
      heed::softmax::backward(x.q, x.k, x.v, x.o, cotangent,
                              {.dq = heed::bhsd(dq, s->batch, s->heads, s->queries, s->dim),
                               .dk = heed::bhsd(dk, s->batch, s->kv_heads, s->keys, s->dim),
                               .dv = heed::bhsd(dv, s->batch, s->kv_heads, s->keys, s->value_dim)},
                              {.mask = mask_of(causal),
                               .lse = heed::contiguous(lse, {s->batch, s->heads, s->queries})},
                              context);
    }
  });
}

// slopes: one for each head, H of them. float.
int heed_lightning_forward(const sizes* s, const float* q, const float* k, const float* v, const float* slopes,
                           float* o, std::int64_t threads) {
  return run(0, threads, [&](auto t, const heed::context& context) {
    if constexpr (std::is_same_v<decltype(t), float>) {
      const tensors<float> x(*s, q, k, v, o);
      const auto decay = heed::contiguous(slopes, {s->heads});
      heed::lightning::forward(x.q, x.k, x.v, decay, x.o, {}, context);
    }
  });
}

int heed_local_linear_forward(const sizes* s, const float* q, const float* k, const float* v, double ridge, float* o,
                              int causal, std::int64_t threads) {
  return run(0, threads, [&](auto t, const heed::context& context) {
    if constexpr (std::is_same_v<decltype(t), float>) {
      const tensors<float> x(*s, q, k, v, o);
      heed::local_linear::forward(x.q, x.k, x.v, ridge, x.o, {.mask = mask_of(causal)}, context);
    }
  });
}

}  // extern "C"
