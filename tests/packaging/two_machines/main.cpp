// SPDX-License-Identifier: BSD-3-Clause
#include "machine.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

constexpr heed::index_t tokens = 150, head_dim = 24;

struct serial {
  heed::index_t concurrency() const { return 1; }
  template <class F> void parallel_for(heed::index_t n, F&& f) {
    for (heed::index_t i = 0; i < n; ++i) f(i);
  }
};

std::vector<float> result(const machine& on, const std::vector<float>& x) {
  std::vector<float> o(x.size()), lse(tokens);
  const auto in = heed::matrix(x.data(), tokens, head_dim);
  const std::int32_t seen[] = {140};
  serial executor;
  const heed::softmax::options<> options{.mask = heed::causal() & heed::key_lengths(seen), .lse = lse};
  on.forward(in, in, in, heed::matrix(o.data(), tokens, head_dim), options, {.executor = executor});
  o.insert(o.end(), lse.begin(), lse.end());
  return o;
}

bool refuses(const machine& on, const std::vector<float>& x) {
  std::vector<float> o(x.size());
  const auto in = heed::matrix(x.data(), tokens, head_dim);
  try {
    on.forward(in, in, in, heed::matrix(o.data(), tokens - 1, head_dim), {}, {});
  } catch (const heed::error&) {
    return true;
  }
  return false;
}

}  // namespace

int main() {
  std::vector<float> x(tokens * head_dim), o(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i) * 0.37F);
  const std::vector<float> expected = result(sse2, x);

  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd");
  struct candidate {
    const char* name;
    const machine* code;
    bool runs;
  };
  const candidate candidates[] = {{"sse2", &sse2, true}, {"avx2", &avx2, has_avx2}, {"avx512", &avx512, has_avx512}};
  for (const candidate& on : candidates) {
    if (!on.runs) {
      std::printf("%s: not on this machine\n", on.name);
      continue;
    }
    const auto in = heed::matrix(x.data(), tokens, head_dim);
    const heed::plan plan = on.code->plan(in, heed::matrix(o.data(), tokens, head_dim));
    std::printf("%s: isa %s\n", on.name, plan.isa);
    if (std::strcmp(plan.isa, on.name) != 0) return std::puts("the linker kept the code of another machine"), 1;
    const std::vector<float> got = result(*on.code, x);
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (!(std::abs(got[i] - expected[i]) < 1e-4F)) return std::puts("wrong result"), 1;
    }
    if (!refuses(*on.code, x)) return std::puts("heed::error did not arrive"), 1;
  }
  return 0;
}
