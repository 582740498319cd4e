// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A call of any kernel as numbers, for laws that hold across kernels: it is taken apart, put into memory of any storage
// type and layout, run, and its results are numbers again. The verbs are those of the kernels' run.cpp.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "heed/core/alignment.hpp"
#include "heed/core/context.hpp"
#include "heed/core/feature_map.hpp"
#include "heed/core/mask.hpp"
#include "heed/local_linear/options.hpp"
#include "support/decode_cache.hpp"
#include "support/law_numbers.hpp"
#include "support/layouts.hpp"
#include "support/random.hpp"
#include "support/stored.hpp"

namespace heed_test {

// sparse_query: softmax with any head counts, more key/value heads than query heads among them
enum class kernel { softmax, sparse_query, mixture_of_head, linear, lightning, local_linear };
inline constexpr kernel all_kernels[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head,
                                         kernel::linear,  kernel::lightning,    kernel::local_linear};
inline constexpr kernel softmax_kernels[] = {kernel::softmax, kernel::sparse_query, kernel::mixture_of_head};
inline constexpr kernel recurrent_kernels[] = {kernel::linear, kernel::lightning};
inline bool is_recurrent(kernel of) { return of == kernel::linear || of == kernel::lightning; }

// What q, k and v are stored as; the 16-bit types sum in float.
enum class number_type { f64, f32, bf16, f16 };
inline constexpr number_type all_types[] = {number_type::f64, number_type::f32, number_type::bf16, number_type::f16};
double rounded(number_type type, double x);

struct law_call {
  kernel of = kernel::softmax;
  number_type type = number_type::f64;
  bool narrow_o = false;  // o and dout are stored as q, k and v are; else as the sums
  law_numbers q, k, v, dout;
  law_numbers gates;           // mixture of head: (B, H, N, 1); lightning: log-gates, or none and slopes
  std::vector<double> slopes;  // lightning, one per key/value head or one per query head
  std::vector<double> ridge;   // local linear, one per head
  heed::mask mask;
  heed::alignment align = heed::bottom_right;
  std::optional<double> scale;
  double softcap = 0, alibi = 0;
  std::vector<double> sinks;  // one per head, or none
  law_numbers bias;           // or none
  heed::feature feature = heed::feature::elu_plus_one;
  bool normalize = true;
  double eps = 0;
  law_numbers s0, z0;  // the initial state, or none: zeros
  index_t chunk = 0;
  heed::local_linear::solver solver = heed::local_linear::solver::direct;
  heed::local_linear::report* report = nullptr;

  index_t batch() const { return q.extent(0); }
  index_t heads() const { return q.extent(1); }
  index_t kv_heads() const { return k.extent(1); }
  index_t out_heads() const { return std::max(heads(), kv_heads()); }
  index_t queries() const { return q.extent(2); }
  index_t keys() const { return k.extent(2); }
  index_t features() const;  // rows of a state
  index_t state_heads() const;
};
std::string to_string(const law_call& x);

// Where a call keeps its tensors, and how it runs
struct law_run {
  layouts in = {};  // in.lse: of lse and states
  heed::context context = {};
  bool planned = false;  // workspace of the planned size, off by one byte, full of NaN
};

// What a call wrote, by name
struct law_results {
  std::vector<std::pair<std::string, law_numbers>> each;
  bool rounded_weights = false;  // a unit rounded them

  const law_numbers& operator[](const std::string& name) const;
  void add(const char* name, law_numbers x) {
    if (!x.empty()) each.push_back({name, std::move(x)});
  }
};

// softmax family: o, lse; recurrent: o, s, z; local linear: o, lse, slope, mean_key
law_results forward(const law_call& x, const law_run& where = {});
// Of sum(dout * o), after a forward of the same call: dq, dk, dv and what else the kernel has
law_results backward(const law_call& x, const law_run& where = {});
// The last `queries` tokens of a cache are new. Recurrent: all tokens are, and the state is s0, z0.
struct law_cache {
  cache_setup at = {};
  kept as = kept::f32;
  std::vector<std::int32_t> lengths = {};  // of each sequence; none: all keys
};
law_results decode(const law_call& x, const law_cache& cache = {}, const heed::context& context = {});
// o and lse of two calls over different keys, joined; into the first
law_results merged(const law_results& a, const law_results& b, number_type type);

}  // namespace heed_test
