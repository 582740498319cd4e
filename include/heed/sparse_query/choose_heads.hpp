// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Sparse query attention: softmax attention with fewer query heads than the width of the model would give, so that the
// FLOPs of scores and values fall. The kernel is softmax's, whose head map goes both ways: of max(query_heads,
// kv_heads) heads of o, head c reads query head c / (max / query_heads) and key/value head c / (max / kv_heads).
// What is added here is the choice of the head counts. Filipek, Sparse Query Attention (arXiv 2510.01817).

#include "heed/core/config.hpp"

#include <algorithm>

#include "heed/core/message.hpp"
#include "heed/core/types.hpp"
#include "heed/softmax.hpp"

namespace heed::sparse_query {

using softmax::options, softmax::gradients, softmax::forward, softmax::plan_forward;

// Query and key/value heads of a model with H heads; what is not whole is an error:
//   mha H, H     gqa H, H/4       mqa H, 1         sqa H/2, H/4     ssqa H/2, H/2
//   xsqa H/4, H/4    xsmqa H/4, 1    lsqa 3H/4, H/4    rsqa H/4, H/2
enum class variant { mha, gqa, mqa, sqa, ssqa, xsqa, xsmqa, lsqa, rsqa };

struct model {
  index_t width = 0, heads = 0;  // heads that the width is divided by, whatever the variant makes of them
  sparse_query::variant variant = sparse_query::variant::sqa;
  index_t query_heads = 0, kv_heads = 0;  // 0: the variant decides
};

// A token's projections are query_heads * head_dim (q), kv_heads * head_dim (k, and v) and out_heads * head_dim wide.
struct layout {
  index_t query_heads, kv_heads, out_heads, head_dim;
  double score_flops_ratio;    // FLOPs of scores and values over those of multi-head attention of the same width
  double kv_floats_per_token;  // numbers that a cache of keys and values holds for each token
};

namespace detail {
inline namespace HEED_ISA {

struct share {
  index_t over, under;  // heads * over / under; under 0: one head
};
struct shares {
  const char* name;
  share query, kv;
};

inline shares shares_of(variant v) {
  switch (v) {
    case variant::mha:
      return {"mha", {1, 1}, {1, 1}};
    case variant::gqa:
      return {"gqa", {1, 1}, {1, 4}};
    case variant::mqa:
      return {"mqa", {1, 1}, {1, 0}};
    case variant::sqa:
      return {"sqa", {1, 2}, {1, 4}};
    case variant::ssqa:
      return {"ssqa", {1, 2}, {1, 2}};
    case variant::xsqa:
      return {"xsqa", {1, 4}, {1, 4}};
    case variant::xsmqa:
      return {"xsmqa", {1, 4}, {1, 0}};
    case variant::lsqa:
      return {"lsqa", {3, 4}, {1, 4}};
    case variant::rsqa:
      return {"rsqa", {1, 4}, {1, 2}};
  }
  heed::detail::fail("model.variant is %, must be one of the enumerators", static_cast<index_t>(v));
}

inline index_t count_of(const char* name, index_t given, index_t heads, const char* variant_name, share s) {
  if (given < 0) heed::detail::fail("model.% is %, must be at least 0", name, given);
  if (given > 0) return given;
  if (s.under == 0) return 1;
  if (heads % s.under != 0)  // over and under have no common divisor
    heed::detail::fail("model.heads is %, must be a multiple of % for the % of %", heads, s.under, name, variant_name);
  return heads / s.under * s.over;
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// The head counts and costs of a variant, or of counts of the caller's. Throws heed::error where counts are not whole
// or do not divide.
inline layout choose_heads(const model& m) {
  using heed::detail::fail;
  if (m.heads < 1) fail("model.heads is %, must be at least 1", m.heads);
  if (m.width < 1) fail("model.width is %, must be at least 1", m.width);
  if (m.width % m.heads != 0) fail("model.width is %, must be a multiple of model.heads, %", m.width, m.heads);
  const detail::shares shares = detail::shares_of(m.variant);
  const index_t query = detail::count_of("query_heads", m.query_heads, m.heads, shares.name, shares.query);
  const index_t kv = detail::count_of("kv_heads", m.kv_heads, m.heads, shares.name, shares.kv);
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
