// SPDX-License-Identifier: BSD-3-Clause
//
// Times sparse query attention at H = 16 heads of 64 beside multi-head, grouped-query and multi-query attention of the
// same width. Rows: <mask>/<variant>/N<N>, N from 1k to 32k, M = N.
//   x_mha     time over that of multi-head attention of the same width, both timed in every iteration; beyond 4k tokens
//             the latter is the time of two of its heads, times eight (heads share nothing)
//   x_kv_mha  for rsqa: time over that of multi-head attention with as many heads as rsqa has k/v heads, likewise
//   ideal     score_flops_ratio of choose_heads
// Rows layout/...: causal, q has half as many heads as k, v and o, or one; see support/layout.hpp.
// The rows of 16k and 32k tokens run once and take minutes; --benchmark_filter='N(1024|4096)/' leaves them out.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "heed/sparse_query.hpp"
#include "support/layout.hpp"
#include "support/report.hpp"
#include "support/rows.hpp"
#include "support/shapes.hpp"

namespace {

using namespace heed_bench;
using benchmark::State;
using heed::sparse_query::variant;

constexpr index_t model_heads = 16, width = 1024;
constexpr struct {
  const char* name;
  variant kind;
} variants[] = {{"mha", variant::mha},     {"gqa", variant::gqa},   {"mqa", variant::mqa},
                {"sqa", variant::sqa},     {"ssqa", variant::ssqa}, {"xsqa", variant::xsqa},
                {"xsmqa", variant::xsmqa}, {"lsqa", variant::lsqa}, {"rsqa", variant::rsqa}};

// Makes tensors of which q may have fewer heads than o; tensors<float> has as many of both.
struct call {
  tensors<float> x;
  heed::tensor_view<const float, 4> q;
  heed::softmax::options<float> options;
  std::vector<std::byte> workspace;

  call(index_t query_heads, index_t kv_heads, index_t n, index_t d, masking mask)
      : x({.n = n,
           .m = n,
           .d = d,
           .e = d,
           .heads = std::max(query_heads, kv_heads),
           .kv_heads = kv_heads,
           .mask = mask}),
        q(heed::slice(x.q_view(), 1, 0, query_heads)),
        options(options_of<float>(x.at)) {
    workspace.resize(plan().workspace_bytes);
  }
  heed::plan plan() { return heed::sparse_query::plan_forward(q, x.k_view(), x.v_view(), x.o_view(), options); }
  void operator()() {
    heed::sparse_query::forward(q, x.k_view(), x.v_view(), x.o_view(), options, {.workspace = workspace});
  }
};

void add_row(const char* name_of_variant, variant kind, masking mask, index_t n) {
  auto* const added = add(
      std::string(name(mask)) + "/" + name_of_variant + number("/N", n),
      [kind, mask, n](State& state, const std::string& row) {
        show_progress(row);
        const heed::sparse_query::layout heads =
            heed::sparse_query::choose_heads({.width = width, .heads = model_heads, .variant = kind});
        call ours(heads.query_heads, heads.kv_heads, n, heads.head_dim, mask);
        const index_t few = n > 4096 ? 2 : model_heads;  // of the heads of multi-head attention
        call multi_head(few, few, n, heads.head_dim, mask);
        const double more = static_cast<double>(model_heads) / static_cast<double>(few);
        if (n <= 4096) ours(), multi_head();
        std::vector<double> ratios;
        for (auto _ : state) {
          const double a = seconds_of(ours), b = more * seconds_of(multi_head);
          state.SetIterationTime(a);
          ratios.push_back(a / b);
        }
        const double ratio = median(ratios);
        set_rates<float>(state, ours.x.at);
        state.counters["x_mha"] = ratio;
        state.counters["ideal"] = heads.score_flops_ratio;
        if (kind == variant::rsqa)
          state.counters["x_kv_mha"] = ratio * static_cast<double>(model_heads) / static_cast<double>(heads.kv_heads);
        char text[96];
        std::snprintf(text, sizeof text, "%td query, %td k/v heads; %s", heads.query_heads, heads.kv_heads,
                      ours.plan().path);
        state.SetLabel(text);
      });
  added->UseManualTime();
  if (n >= 16384) added->Iterations(1)->Repetitions(1);
}

void add_layouts() {
  add_layout_rows(
      "",
      [](const laid_tensors& x) {
        const auto q = heed::slice(x.q, 1, 0, x.at.used % 2 == 0 ? x.at.used / 2 : 1);
        heed::sparse_query::forward(q, x.k, x.v, x.o, {.mask = heed::causal()});
      },
      [](const laid_shape& s) {
        return shape{.n = s.n, .m = s.n, .d = s.d, .e = s.d, .mask = masking::causal}.flops();
      });
}

}  // namespace

int main(int argc, char** argv) {
  for (const masking mask : {masking::dense, masking::causal})
    for (const index_t n : {1024, 2048, 4096, 8192, 16384, 32768})
      for (const auto& v : variants) add_row(v.name, v.kind, mask, n);
  add_layouts();
  return run_all(argc, argv);
}
