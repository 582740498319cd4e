// SPDX-License-Identifier: BSD-3-Clause

// softmax::backward over ranks against one call on the whole sequence.

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heed/distributed/ring.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/ranks.hpp"

using namespace heed_test;
using heed::distributed::cut;

namespace {

template <class T> struct gradients_over_ranks {
  index_t batch = 1, heads = 4, kv_heads = 2, queries = 70, keys = 70, d = 8, e = 12;
  heed::softmax::options<T> opt = {};
  layout how_laid = layout::bhsd;
  bool with_dlse = false, dk = true, dv = true, dq = true;

  index_t out_heads = std::max(heads, kv_heads);
  buffer<T> q = buffer<T>::input({batch, heads, queries, d}), k = buffer<T>::input({batch, kv_heads, keys, d}),
            v = buffer<T>::input({batch, kv_heads, keys, e}), o = buffer<T>::input({batch, out_heads, queries, e}),
            dout = buffer<T>::input({batch, out_heads, queries, e}),
            lse = buffer<T>::input({batch, out_heads, queries, 1}),
            dlse = buffer<T>::input({batch, out_heads, queries, 1});
  buffer<T> want_dq = buffer<T>::output(q.size()), want_dk = buffer<T>::output(k.size()),
            want_dv = buffer<T>::output(v.size()), got_dq = buffer<T>::output(q.size()),
            got_dk = buffer<T>::output(k.size()), got_dv = buffer<T>::output(v.size());
  std::uint64_t bits = 0;

  void make() {
    random_numbers random(3);
    for (buffer<T>* x : {&q, &k, &v, &dout, &dlse}) x->randomize(random);
    auto whole = opt;
    whole.lse = lse.view3();
    heed::softmax::forward(q.cview(), k.cview(), v.cview(), o.view(), whole);
    heed::softmax::gradients<T> g{.dq = want_dq.view(), .dk = want_dk.view(), .dv = want_dv.view()};
    if (with_dlse) g.dlse = dlse.view3();
    heed::softmax::backward(q.cview(), k.cview(), v.cview(), o.cview(), dout.cview(), g, whole);
  }

  std::string run(const heed::distributed::options& how, const ranges& of_queries, const ranges& of_keys,
                  bool with_workspace = false) {
    struct part {
      buffer<T> dq, dk, dv;
    };
    std::vector<part> parts;
    for (std::size_t r = 0; r < of_keys.size(); ++r)
      parts.push_back({buffer<T>::output({batch, heads, count(of_queries[r]), d}, how_laid),
                       buffer<T>::output({batch, kv_heads, count(of_keys[r]), d}, how_laid),
                       buffer<T>::output({batch, kv_heads, count(of_keys[r]), e}, how_laid)});
    const auto thrown = thrown_by_ranks(static_cast<index_t>(of_keys.size()), [&](net_of_threads& net) {
      const auto r = static_cast<std::size_t>(net.rank());
      const auto of = [&](const buffer<T>& x, const ranges& tokens) { return part_of(x, tokens[r], how_laid); };
      const buffer<T> ql = of(q, of_queries), kl = of(k, of_keys), vl = of(v, of_keys), ol = of(o, of_queries),
                      gl = of(dout, of_queries), ll = of(lse, of_queries), dl = of(dlse, of_queries);
      auto mine = opt;
      mine.lse = ll.view3();
      auto here = how;
      if (how.cut == cut::zigzag) here.first_chunk = of_keys[r][0].count;
      heed::softmax::gradients<T> g;
      const auto memory_of = [](const buffer<T>& x) {  // without tokens there is none
        auto view = x.view();
        if (x.size()[2] == 0) view = {nullptr, view.extents(), view.strides()};
        return view;
      };
      if (dq) g.dq = memory_of(parts[r].dq);
      if (dk) g.dk = memory_of(parts[r].dk);
      if (dv) g.dv = memory_of(parts[r].dv);
      if (with_dlse) g.dlse = dl.view3();
      test_executor workers(2, order::shuffled);
      heed::context context{.executor = workers};
      std::vector<std::byte> scratch;
      if (with_workspace) {
        const heed::plan plan = heed::distributed::softmax::plan_backward(
            net, ql.cview(), kl.cview(), vl.cview(), ol.cview(), gl.cview(), g, mine, here, context);
        if (!plan.ok()) heed::detail::fail(plan.problem.data());
        scratch.resize(plan.workspace_bytes);
        context.workspace = scratch;
      }
      heed::distributed::softmax::backward(net, ql.cview(), kl.cview(), vl.cview(), ol.cview(), gl.cview(), g, mine,
                                           here, context);
    });
    bits = 0;
    for (std::size_t r = 0; r < parts.size(); ++r) {
      if (!thrown[r].empty()) return "rank " + std::to_string(r) + " threw " + thrown[r];
      const part& p = parts[r];
      if (!p.dq.canaries_alive() || !p.dk.canaries_alive() || !p.dv.canaries_alive()) return "memory was written";
      put_part(p.dq, of_queries[r], got_dq), put_part(p.dk, of_keys[r], got_dk), put_part(p.dv, of_keys[r], got_dv);
      bits = bits * 31 + p.dq.hash() + 7 * p.dk.hash() + 11 * p.dv.hash();
    }
    return "";
  }
};

template <class T> void check(gradients_over_ranks<T>& x, cut how, spread of, index_t ranks, double bound) {
  const ranges tokens = ranges_of(how, of, x.keys, ranks);
  INFO("cut " << static_cast<int>(how) << ", " << name_of(of) << ", " << ranks << " ranks");
  REQUIRE(x.run({.cut = how}, tokens, tokens) == "");
  CHECK(difference(x.got_dq, x.want_dq) < bound);
  CHECK(difference(x.got_dk, x.want_dk) < bound);
  CHECK(difference(x.got_dv, x.want_dv) < bound);
  const std::uint64_t bits = x.bits;
  REQUIRE(x.run({.cut = how}, tokens, tokens, true) == "");
  CHECK(x.bits == bits);
}

}  // namespace

TEST_CASE("ring backward: 1 to 5 ranks, every cut, spread and mask") {
  for (const heed::mask& mask : {heed::mask(), heed::causal(), heed::window(20, 5)})
    for (const cut how : {cut::contiguous, cut::zigzag})
      for (const spread of : spreads)
        for (index_t ranks = 1; ranks <= 5; ++ranks) {
          gradients_over_ranks<float> x{.opt = {.mask = mask}};
          x.make();
          check(x, how, of, ranks, 1e-5);
        }
}

TEST_CASE("ring backward: heads, layouts, options and double") {
  constexpr index_t heads[][2] = {{1, 1}, {6, 2}, {4, 1}, {2, 4}};
  for (const auto& [h, kv] : heads)
    for (const layout how : output_layouts) {
      gradients_over_ranks<double> x{
          .batch = 2,
          .heads = h,
          .kv_heads = kv,
          .opt = {.mask = heed::causal(), .scale = 0.4, .softcap = 4, .alibi_slopes = 0.1, .sink_logits = 0.5},
          .how_laid = how,
          .with_dlse = true};
      x.make();
      check(x, cut::zigzag, spread::ragged, 3, 1e-13);
      check(x, cut::contiguous, spread::some_empty, 4, 1e-13);
    }
}

TEST_CASE("ring backward: what is left out is not written, and cross attention") {
  for (int left_out = 0; left_out < 4; ++left_out) {
    gradients_over_ranks<float> x{
        .queries = 50, .keys = 70, .dk = left_out != 1, .dv = left_out != 2, .dq = left_out != 3};
    x.make();
    REQUIRE(x.run({}, ranges_of(cut::contiguous, spread::ragged, 50, 3),
                  ranges_of(cut::contiguous, spread::even, 70, 3)) == "");
    CHECK((difference(x.got_dk, x.want_dk) < 1e-5) == (left_out != 1));
    CHECK((difference(x.got_dv, x.want_dv) < 1e-5) == (left_out != 2));
    CHECK((difference(x.got_dq, x.want_dq) < 1e-5) == (left_out != 3));
  }
}

TEST_CASE("ring backward: NaN reaches what sees it, and no other") {
  for (const heed::mask& mask : {heed::causal(), heed::window(6, 2)})
    for (const cut how : {cut::contiguous, cut::zigzag}) {
      gradients_over_ranks<float> x{.opt = {.mask = mask}};
      x.make();
      for (index_t h = 0; h < x.kv_heads; ++h) x.k(0, h, 60, 3) = std::numeric_limits<float>::quiet_NaN();
      auto whole = x.opt;
      whole.lse = x.lse.view3();
      heed::softmax::forward(x.q.cview(), x.k.cview(), x.v.cview(), x.o.view(), whole);
      heed::softmax::backward(x.q.cview(), x.k.cview(), x.v.cview(), x.o.cview(), x.dout.cview(),
                              {.dq = x.want_dq.view(), .dk = x.want_dk.view(), .dv = x.want_dv.view()}, whole);
      const ranges tokens = ranges_of(how, spread::ragged, x.keys, 4);
      REQUIRE(x.run({.cut = how}, tokens, tokens) == "");
      CHECK(!std::isnan(x.got_dq(0, 1, 50, 2)));
      CHECK(std::isnan(x.got_dq(0, 1, 61, 2)));
      CHECK(difference(x.got_dq, x.want_dq) < 1e-5);
      CHECK(difference(x.got_dk, x.want_dk) < 1e-5);
      CHECK(difference(x.got_dv, x.want_dv) < 1e-5);
    }
}

TEST_CASE("ring backward: refusals reach every rank") {
  gradients_over_ranks<float> x;
  x.make();
  const ranges tokens = ranges_of(cut::contiguous, spread::even, 70, 3);
  const auto thrown = thrown_by_ranks(3, [&](net_of_threads& net) {
    const auto r = static_cast<std::size_t>(net.rank());
    const auto of = [&](const buffer<float>& y) { return part_of(y, tokens[r], layout::bhsd); };
    const buffer<float> ql = of(x.q), kl = of(x.k), vl = of(x.v), ol = of(x.o), gl = of(x.dout), ll = of(x.lse);
    buffer<float> dk = buffer<float>::output(kl.size());
    heed::softmax::options<> opt{.lse = r == 1 ? heed::tensor_view<float, 3>() : ll.view3()};
    heed::distributed::softmax::backward(net, ql.cview(), kl.cview(), vl.cview(), ol.cview(), gl.cview(),
                                         {.dk = dk.view()}, opt);
  });
  for (const std::string& text : thrown)
    CHECK(text == "rank 1: lse is not given: over ranks backward reads what forward wrote");
}
