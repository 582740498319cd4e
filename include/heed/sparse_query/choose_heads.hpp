// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Sparse query attention is softmax attention with fewer query heads than the width of the model would give, which
// saves FLOPs of scores and values. The kernel is softmax's, whose head map goes both ways: of max(query_heads,
// kv_heads) heads of o, head c reads query head c / (max / query_heads) and key/value head c / (max / kv_heads). This
// file adds the choice of head counts. Filipek, Sparse Query Attention (arXiv 2510.01817).

#include <algorithm>

#include "heed/core/message.hpp"
#include "heed/core/types.hpp"
#include "heed/softmax/backward.hpp"
#include "heed/softmax/decode.hpp"
#include "heed/softmax/forward.hpp"
#include "heed/softmax/options.hpp"
#include "heed/softmax/prepare.hpp"
#include "heed/softmax/prepare_decode.hpp"

namespace heed::sparse_query {

using softmax::options, softmax::gradients;
using softmax::backward, softmax::plan_backward;
using softmax::decode, softmax::plan_decode, softmax::prepare_decode;
using softmax::forward, softmax::plan_forward, softmax::prepare;

// Query and key/value heads of a model with H heads; a count that is not whole is an error:
//   mha H, H     gqa H, H/4       mqa H, 1         sqa H/2, H/4     ssqa H/2, H/2
//   xsqa H/4, H/4    xsmqa H/4, 1    lsqa 3H/4, H/4    rsqa H/4, H/2
enum class variant { mha, gqa, mqa, sqa, ssqa, xsqa, xsmqa, lsqa, rsqa };

struct model {
  index_t width = 0, heads = 0;  // head_dim is width / heads, whatever the variant
  sparse_query::variant variant = sparse_query::variant::sqa;
  index_t query_heads = 0, kv_heads = 0;  // 0: the variant decides
};

// A token's projections are query_heads * head_dim (q), kv_heads * head_dim (k, and v) and out_heads * head_dim wide.
struct layout {
  index_t query_heads, kv_heads, out_heads, head_dim;
  double score_flops_ratio;    // FLOPs of scores and values relative to multi-head attention of the same width
  double kv_floats_per_token;  // numbers in a cache of keys and values, per token
};

namespace detail {
inline namespace HEED_ISA {

struct fraction {
  index_t numerator, denominator;  // of the heads; denominator 0: one head
};
struct variant_heads {
  const char* name;
  fraction query, kv;
};

inline variant_heads heads_of(variant v) {
  constexpr variant_heads all[] = {{"mha", {1, 1}, {1, 1}},   {"gqa", {1, 1}, {1, 4}},  {"mqa", {1, 1}, {1, 0}},
                                   {"sqa", {1, 2}, {1, 4}},   {"ssqa", {1, 2}, {1, 2}}, {"xsqa", {1, 4}, {1, 4}},
                                   {"xsmqa", {1, 4}, {1, 0}}, {"lsqa", {3, 4}, {1, 4}}, {"rsqa", {1, 4}, {1, 2}}};
  const auto number = static_cast<index_t>(v);
  if (number < 0 || number > static_cast<index_t>(variant::rsqa))
    heed::detail::fail("model.variant is %, must be one of the enumerators", number);
  return all[number];
}

inline index_t count_of(const char* name, index_t given, index_t heads, const char* variant_name, fraction f) {
  if (given < 0) heed::detail::fail("model.% is %, must be at least 0", name, given);
  if (given > 0) return given;
  if (f.denominator == 0) return 1;
  if (heads % f.denominator != 0)  // the fractions are in lowest terms
    heed::detail::fail("model.heads is %, must be a multiple of % for the % of %", heads, f.denominator, name,
                       variant_name);
  return heads / f.denominator * f.numerator;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// Returns the head counts and costs of a variant, or of the caller's own counts. Throws heed::error where a count is
// not whole or one does not divide the other.
inline layout choose_heads(const model& m) {
  using heed::detail::fail;
  if (m.heads < 1) fail("model.heads is %, must be at least 1", m.heads);
  if (m.width < 1) fail("model.width is %, must be at least 1", m.width);
  if (m.width % m.heads != 0) fail("model.width is %, must be a multiple of model.heads, %", m.width, m.heads);
  const detail::variant_heads v = detail::heads_of(m.variant);
  const index_t query = detail::count_of("query_heads", m.query_heads, m.heads, v.name, v.query);
  const index_t kv = detail::count_of("kv_heads", m.kv_heads, m.heads, v.name, v.kv);
  const index_t more = std::max(query, kv);
  if (more % std::min(query, kv) != 0)
    fail("model has query_heads % and kv_heads %, one must divide the other", query, kv);
  const index_t head_dim = m.width / m.heads;
  return {.query_heads = query,
          .kv_heads = kv,
          .out_heads = more,
          .head_dim = head_dim,
          .score_flops_ratio = static_cast<double>(more) / static_cast<double>(m.heads),
          .kv_floats_per_token = 2 * static_cast<double>(kv) * static_cast<double>(head_dim)};
}

}  // namespace HEED_ISA
}  // namespace heed::sparse_query
