// SPDX-License-Identifier: BSD-3-Clause

// Linear attention over ranks against one call on the whole sequence, forward and backward.

#include <cstdint>
#include <string>
#include <vector>

#include "heed/distributed.hpp"
#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/ranks.hpp"

using namespace heed_test;
using heed::distributed::cut;
using heed::distributed::state_pass;

namespace {

template <class T> struct linear_over_ranks {
  index_t batch = 2, heads = 4, kv_heads = 2, n = 60, d = 6, e = 5;
  heed::linear::options<T> opt = {};
  bool with_initial = true;

  index_t features = heed::detail::feature_dim(heed::detail::parts(opt.feature), d);
  buffer<T> q = buffer<T>::input({batch, heads, n, d}), k = buffer<T>::input({batch, kv_heads, n, d}),
            v = buffer<T>::input({batch, kv_heads, n, e}), dout = buffer<T>::input({batch, heads, n, e});
  buffer<T> o = buffer<T>::output(dout.size()), dq = buffer<T>::output(q.size()), dk = buffer<T>::output(k.size()),
            dv = buffer<T>::output(v.size()), got_o = buffer<T>::output(dout.size()),
            got_dq = buffer<T>::output(q.size()), got_dk = buffer<T>::output(k.size()),
            got_dv = buffer<T>::output(v.size());
  // states: s and z each
  struct states {
    buffer<T> s, z;
    heed::state_view<T> view() const { return {s.view(), z.view3()}; }
  };
  states make_states() const {
    return {buffer<T>::output({batch, kv_heads, features, e}), buffer<T>::output({batch, kv_heads, features, 1})};
  }
  states initial = make_states(), final = make_states(), dinitial = make_states(), dfinal = make_states(),
         got_final = make_states(), got_dinitial = make_states();
  std::uint64_t bits = 0;

  void make() {
    random_numbers random(5);
    for (buffer<T>* x : {&q, &k, &v, &dout, &initial.s, &dfinal.s}) x->randomize(random, 0.5);
    for (buffer<T>* x : {&initial.z, &dfinal.z}) x->each([&](T& y) { y = static_cast<T>(1 + random.uniform()); });
    auto whole = opt;
    if (with_initial) whole.initial_state = initial.view();
    whole.final_state = final.view();
    heed::linear::forward(q.cview(), k.cview(), v.cview(), o.view(), whole);
    whole.final_state = {};
    heed::linear::gradients<T> g{.dq = dq.view(), .dk = dk.view(), .dv = dv.view(), .dinitial_state = dinitial.view()};
    if (with_initial) g.dfinal_state = dfinal.view();
    heed::linear::backward(q.cview(), k.cview(), v.cview(), o.cview(), dout.cview(), g, whole);
  }

  std::string run(const heed::distributed::options& how, const ranges& tokens, bool with_workspace) {
    struct part {
      buffer<T> o, dq, dk, dv;
    };
    std::vector<part> parts;
    for (const auto& each : tokens) {
      const index_t m = count(each);
      parts.push_back({buffer<T>::output({batch, heads, m, e}), buffer<T>::output({batch, heads, m, d}),
                       buffer<T>::output({batch, kv_heads, m, d}), buffer<T>::output({batch, kv_heads, m, e})});
    }
    const auto ranks = static_cast<index_t>(tokens.size());
    const auto thrown = thrown_by_ranks(ranks, [&](net_of_threads& net) {
      const auto r = static_cast<std::size_t>(net.rank());
      const bool first = r == 0, last = net.rank() == ranks - 1;
      const auto of = [&](const buffer<T>& x) { return part_of(x, tokens[r], layout::bshd); };
      const buffer<T> ql = of(q), kl = of(k), vl = of(v), gl = of(dout);
      auto mine = opt;
      if (with_initial && first) mine.initial_state = initial.view();
      if (last) mine.final_state = got_final.view();
      test_executor workers(2, order::shuffled);
      heed::context context{.executor = workers};
      std::vector<std::byte> scratch;
      const part& p = parts[r];
      if (with_workspace) {
        scratch.resize(heed::distributed::linear::plan_forward(net, ql.cview(), kl.cview(), vl.cview(), p.o.view(),
                                                               mine, how, context)
                           .workspace_bytes);
        context.workspace = scratch;
      }
      heed::distributed::linear::forward(net, ql.cview(), kl.cview(), vl.cview(), p.o.view(), mine, how, context);
      mine.final_state = {};
      heed::linear::gradients<T> g{.dq = p.dq.view(), .dk = p.dk.view(), .dv = p.dv.view()};
      if (first) g.dinitial_state = got_dinitial.view();
      if (last && with_initial) g.dfinal_state = dfinal.view();
      if (with_workspace) {
        context.workspace = {};
        scratch.resize(heed::distributed::linear::plan_backward(net, ql.cview(), kl.cview(), vl.cview(), p.o.cview(),
                                                                gl.cview(), g, mine, how, context)
                           .workspace_bytes);
        context.workspace = scratch;
      }
      heed::distributed::linear::backward(net, ql.cview(), kl.cview(), vl.cview(), p.o.cview(), gl.cview(), g, mine,
                                          how, context);
    });
    bits = 0;
    for (std::size_t r = 0; r < parts.size(); ++r) {
      if (!thrown[r].empty()) return "rank " + std::to_string(r) + " threw " + thrown[r];
      const part& p = parts[r];
      for (const buffer<T>* x : {&p.o, &p.dq, &p.dk, &p.dv}) {
        if (!x->canaries_alive()) return "memory was written";
        bits = bits * 31 + x->hash();
      }
      put_part(p.o, tokens[r], got_o), put_part(p.dq, tokens[r], got_dq);
      put_part(p.dk, tokens[r], got_dk), put_part(p.dv, tokens[r], got_dv);
    }
    bits = bits * 31 + got_final.s.hash() + got_dinitial.s.hash();
    return "";
  }
};

template <class T> void check(linear_over_ranks<T>& x, spread of, index_t ranks, state_pass pass, double bound) {
  const ranges tokens = ranges_of(cut::contiguous, of, x.n, ranks);
  INFO(name_of(of) << ", " << ranks << " ranks, pass " << static_cast<int>(pass));
  REQUIRE(x.run({.states = pass}, tokens, false) == "");
  CHECK(difference(x.got_o, x.o) < bound);
  CHECK(difference(x.got_final.s, x.final.s) < bound);
  CHECK(difference(x.got_dq, x.dq) < bound);
  CHECK(difference(x.got_dk, x.dk) < bound);
  CHECK(difference(x.got_dv, x.dv) < bound);
  CHECK(difference(x.got_dinitial.s, x.dinitial.s) < bound);
  if (x.opt.normalize) {
    CHECK(difference(x.got_final.z, x.final.z) < bound);
    CHECK(difference(x.got_dinitial.z, x.dinitial.z) < bound);
  }
  const std::uint64_t bits = x.bits;
  REQUIRE(x.run({.states = pass}, tokens, true) == "");
  CHECK(x.bits == bits);
}

}  // namespace

TEST_CASE("linear over ranks: causal and dense, 1 to 5 ranks, both ways to pass states") {
  for (const bool causal : {false, true})
    for (const state_pass pass : {state_pass::scan, state_pass::chain})
      for (const spread of : spreads)
        for (index_t ranks = 1; ranks <= 5; ++ranks) {
          linear_over_ranks<float> x{.opt = {.mask = causal ? heed::causal() : heed::mask()}};
          x.make();
          check(x, of, ranks, pass, 2e-5);
        }
}

TEST_CASE("linear over ranks: features, not normalised, no initial state, double") {
  for (const heed::feature feature :
       {heed::feature::identity, heed::feature::softmax, heed::feature::taylor, heed::feature::exp})
    for (const bool causal : {false, true}) {
      linear_over_ranks<double> x{.opt = {.mask = causal ? heed::causal() : heed::mask(),
                                          .scale = 0.5,
                                          .feature = feature,
                                          .normalize = feature != heed::feature::identity},
                                  .with_initial = feature != heed::feature::exp};
      x.make();
      check(x, spread::ragged, 3, state_pass::scan, 1e-12);
      check(x, spread::some_empty, 5, state_pass::chain, 1e-12);
    }
}

TEST_CASE("linear over ranks: refusals reach every rank") {
  linear_over_ranks<float> x;
  const buffer<float> wide = buffer<float>::input({1, 1, 4, 8});
  const auto said = [&](index_t bad, const auto& spoil) {
    const auto thrown = thrown_by_ranks(3, [&](net_of_threads& net) {
      const buffer<float> o = buffer<float>::output({1, 1, 4, 8});
      heed::linear::options<> opt{.mask = heed::causal()};
      heed::distributed::options how;
      if (net.rank() == bad) spoil(opt, how);
      heed::distributed::linear::forward(net, wide.cview(), wide.cview(), wide.cview(), o.view(), opt, how);
    });
    for (const std::string& each : thrown) CHECK(each == thrown[0]);
    return thrown[0];
  };
  using options = heed::linear::options<>;
  using hows = heed::distributed::options;
  CHECK(said(1, [](options& o, hows&) { o.mask = {}; }) == "rank 1 has mask 0, rank 0 has 1");
  CHECK(said(1, [](options& o, hows&) { o.feature = heed::feature::relu; }) == "rank 1 has feature 2, rank 0 has 1");
  CHECK(said(2, [](options& o, hows&) { o.eps = 1; }) == "rank 2 has eps 1, rank 0 has 1e-06");
  CHECK(said(2, [](options&, hows& h) { h.states = state_pass::chain; }) ==
        "rank 2 has states passed by 1, rank 0 has 0");
  CHECK(said(1, [](options&, hows& h) { h.cut = cut::zigzag; }) ==
        "rank 1: linear and lightning attention take the cut contiguous alone");
  CHECK(said(1, [&](options& o, hows&) { o.initial_state = x.initial.view(); }) ==
        "rank 1: initial_state is given, but only rank 0 starts the sequence");
}
