// SPDX-License-Identifier: BSD-3-Clause

// Lightning attention over ranks against one call on the whole sequence, forward and backward.

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

template <class T> struct lightning_over_ranks {
  index_t batch = 2, heads = 4, kv_heads = 2, n = 60, d = 6, e = 5;
  heed::lightning::options<T> opt = {};
  index_t states_of_call = 4;  // heads of the decay
  bool gated = false, with_initial = true;
  T last_slope = T(0.3), cut_gate = T(-0.1);

  buffer<T> q = buffer<T>::input({batch, heads, n, d}), k = buffer<T>::input({batch, kv_heads, n, d}),
            v = buffer<T>::input({batch, kv_heads, n, e}), dout = buffer<T>::input({batch, heads, n, e});
  buffer<T> o = buffer<T>::output(dout.size()), dq = buffer<T>::output(q.size()), dk = buffer<T>::output(k.size()),
            dv = buffer<T>::output(v.size()), got_o = buffer<T>::output(dout.size()),
            got_dq = buffer<T>::output(q.size()), got_dk = buffer<T>::output(k.size()),
            got_dv = buffer<T>::output(v.size());
  buffer<T> gates = buffer<T>::input({batch, states_of_call, n, 1}), dgates = buffer<T>::output(gates.size()),
            got_dgates = buffer<T>::output(gates.size());
  std::vector<T> slopes = std::vector<T>(static_cast<std::size_t>(states_of_call)), dslopes = slopes,
                 got_dslopes = slopes;
  struct states {
    buffer<T> s;
    heed::state_view<T> view() const { return {s.view()}; }
  };
  states make_states() const { return {buffer<T>::output({batch, states_of_call, d, e})}; }
  states initial = make_states(), final = make_states(), dinitial = make_states(), dfinal = make_states(),
         got_final = make_states(), got_dinitial = make_states();
  std::uint64_t bits = 0;

  void make() {
    random_numbers random(5);
    for (buffer<T>* x : {&q, &k, &v, &dout, &initial.s, &dfinal.s}) x->randomize(random, 0.5);
    gates.each([&](T& y) { y = static_cast<T>(-0.3 * random.uniform()); });
    for (index_t h = 0; h < states_of_call; ++h) gates(0, h, n / 2) = cut_gate;
    for (std::size_t h = 0; h < slopes.size(); ++h) slopes[h] = static_cast<T>(0.02 * static_cast<double>(h));
    slopes.back() = last_slope;
    const heed::decay<T> decay = gated ? heed::decay<T>(gates.view3()) : heed::decay<T>(slopes);
    auto whole = opt;
    if (with_initial) whole.initial_state = initial.view();
    whole.final_state = final.view();
    heed::lightning::forward(q.cview(), k.cview(), v.cview(), decay, o.view(), whole);
    whole.final_state = {};
    heed::lightning::gradients<T> g{
        .dq = dq.view(), .dk = dk.view(), .dv = dv.view(), .dinitial_state = dinitial.view()};
    if (with_initial) g.dfinal_state = dfinal.view();
    if (gated)
      g.dlog_gates = dgates.view3();
    else
      g.dslopes = heed::tensor_view<T, 1>(dslopes);
    heed::lightning::backward(q.cview(), k.cview(), v.cview(), decay, dout.cview(), g, whole);
  }

  std::string run(const heed::distributed::options& how, const ranges& tokens, bool with_workspace) {
    struct part {
      buffer<T> o, dq, dk, dv, dgates;
      std::vector<T> dslopes;
    };
    std::vector<part> parts;
    for (const auto& each : tokens) {
      const index_t m = count(each);
      parts.push_back({buffer<T>::output({batch, heads, m, e}), buffer<T>::output({batch, heads, m, d}),
                       buffer<T>::output({batch, kv_heads, m, d}), buffer<T>::output({batch, kv_heads, m, e}),
                       buffer<T>::output({batch, states_of_call, m, 1}), slopes});
    }
    const auto ranks = static_cast<index_t>(tokens.size());
    const auto thrown = thrown_by_ranks(ranks, [&](net_of_threads& net) {
      const auto r = static_cast<std::size_t>(net.rank());
      const bool first = r == 0, last = net.rank() == ranks - 1;
      const auto of = [&](const buffer<T>& x) { return part_of(x, tokens[r], layout::bshd); };
      const buffer<T> ql = of(q), kl = of(k), vl = of(v), gl = of(dout), gate = of(gates);
      const heed::decay<T> decay = gated ? heed::decay<T>(gate.view3()) : heed::decay<T>(slopes);
      auto mine = opt;
      if (with_initial && first) mine.initial_state = initial.view();
      if (last) mine.final_state = got_final.view();
      test_executor workers(2, order::shuffled);
      heed::context context{.executor = workers};
      std::vector<std::byte> scratch;
      part& p = parts[r];
      if (with_workspace) {
        scratch.resize(heed::distributed::lightning::plan_forward(net, ql.cview(), kl.cview(), vl.cview(), decay,
                                                                  p.o.view(), mine, how, context)
                           .workspace_bytes);
        context.workspace = scratch;
      }
      heed::distributed::lightning::forward(net, ql.cview(), kl.cview(), vl.cview(), decay, p.o.view(), mine, how,
                                            context);
      mine.final_state = {};
      heed::lightning::gradients<T> g{.dq = p.dq.view(), .dk = p.dk.view(), .dv = p.dv.view()};
      if (first) g.dinitial_state = got_dinitial.view();
      if (last && with_initial) g.dfinal_state = dfinal.view();
      if (gated)
        g.dlog_gates = p.dgates.view3();
      else
        g.dslopes = heed::tensor_view<T, 1>(p.dslopes);
      if (with_workspace) {
        context.workspace = {};
        scratch.resize(heed::distributed::lightning::plan_backward(net, ql.cview(), kl.cview(), vl.cview(), decay,
                                                                   gl.cview(), g, mine, how, context)
                           .workspace_bytes);
        context.workspace = scratch;
      }
      heed::distributed::lightning::backward(net, ql.cview(), kl.cview(), vl.cview(), decay, gl.cview(), g, mine, how,
                                             context);
    });
    bits = 0;
    for (std::size_t r = 0; r < parts.size(); ++r) {
      if (!thrown[r].empty()) return "rank " + std::to_string(r) + " threw " + thrown[r];
      const part& p = parts[r];
      for (const buffer<T>* x : {&p.o, &p.dq, &p.dk, &p.dv, &p.dgates}) {
        if (!x->canaries_alive()) return "memory was written";
        bits = bits * 31 + x->hash();
      }
      put_part(p.o, tokens[r], got_o), put_part(p.dq, tokens[r], got_dq);
      put_part(p.dk, tokens[r], got_dk), put_part(p.dv, tokens[r], got_dv);
      put_part(p.dgates, tokens[r], got_dgates);
      if (!gated && p.dslopes != parts[0].dslopes) return "dslopes differ";
      got_dslopes = p.dslopes;
    }
    bits = bits * 31 + got_final.s.hash() + got_dinitial.s.hash();
    return "";
  }
};

template <class T> void check(lightning_over_ranks<T>& x, spread of, index_t ranks, state_pass pass, double bound) {
  const ranges tokens = ranges_of(cut::contiguous, of, x.n, ranks);
  INFO(name_of(of) << ", " << ranks << " ranks, pass " << static_cast<int>(pass));
  REQUIRE(x.run({.states = pass}, tokens, false) == "");
  CHECK(difference(x.got_o, x.o) < bound);
  CHECK(difference(x.got_final.s, x.final.s) < bound);
  CHECK(difference(x.got_dq, x.dq) < bound);
  CHECK(difference(x.got_dk, x.dk) < bound);
  CHECK(difference(x.got_dv, x.dv) < bound);
  CHECK(difference(x.got_dinitial.s, x.dinitial.s) < bound);
  if (x.gated) CHECK(difference(x.got_dgates, x.dgates) < bound);
  for (std::size_t h = 0; h < x.dslopes.size() && !x.gated; ++h)
    CHECK(std::abs(static_cast<double>(x.dslopes[h] - x.got_dslopes[h])) <=
          bound * std::max(1.0, std::abs(static_cast<double>(x.dslopes[h]))) * 10);
  const std::uint64_t bits = x.bits;
  REQUIRE(x.run({.states = pass}, tokens, true) == "");
  CHECK(x.bits == bits);
}

}  // namespace

TEST_CASE("lightning over ranks: slopes and gates, 1 to 5 ranks, both ways to pass states") {
  for (const bool gated : {false, true})
    for (const index_t states : {4, 2})
      for (const state_pass pass : {state_pass::scan, state_pass::chain})
        for (const spread of : spreads)
          for (index_t ranks = 1; ranks <= 5; ++ranks) {
            lightning_over_ranks<float> x{.states_of_call = states, .gated = gated};
            x.make();
            check(x, of, ranks, pass, 2e-5);
          }
}

TEST_CASE("lightning over ranks: sequences longer than a block, double, decay to nothing") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const bool gated : {false, true}) {
    lightning_over_ranks<double> x{.n = 500, .gated = gated, .last_slope = infinity, .cut_gate = -infinity};
    x.make();
    x.dslopes.back() = x.got_dslopes.back() = 0;
    check(x, spread::ragged, 3, state_pass::scan, 1e-12);
    check(x, spread::even, 4, state_pass::chain, 1e-12);
  }
}

TEST_CASE("lightning over ranks: refusals reach every rank") {
  const buffer<float> wide = buffer<float>::input({1, 1, 4, 8});
  const auto said = [&](float slope, const heed::mask& mask, index_t bad) {
    const auto thrown = thrown_by_ranks(3, [&](net_of_threads& net) {
      const buffer<float> o = buffer<float>::output({1, 1, 4, 8});
      const std::vector<float> slopes{net.rank() == bad ? slope : 0.5f};
      heed::distributed::lightning::forward(net, wide.cview(), wide.cview(), wide.cview(), slopes, o.view(),
                                            {.mask = net.rank() == bad ? mask : heed::mask()});
    });
    for (const std::string& each : thrown) CHECK(each == thrown[0]);
    return thrown[0];
  };
  CHECK(said(0.25f, {}, 2) == "rank 2 has other slopes than rank 0");
  CHECK(said(0.5f, heed::key_lengths({3}), 1) == "rank 1: the mask of lightning attention over ranks is none");
  CHECK(said(-1.0f, {}, 1).find("rank 1: ") == 0);
}
