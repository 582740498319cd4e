// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of mixture_of_head: forward, backward, decode and the routers; and of sparse query attention.

#include "fuzz/decode_target.hpp"
#include "fuzz/softmax_call.hpp"
#include "fuzz/target.hpp"
#include "heed/sparse_query/choose_heads.hpp"
#include "support/mixture_backward_case.hpp"

namespace heed_test {

template <class T> static void forward(bytes& in) {
  forward_call<T, true> x(in);
  if (!x.run(in)) return;
  x.check_results();
  x.check_bits(in);
}
void fuzz_mixture_of_head_forward(bytes& in) {
  in_a_type(in, [&](auto x) { forward<decltype(x)>(in); });
}

// Gradients in T; of floats also with tensors that are stored otherwise, after a forward of the same numbers.
template <class T> static void backward(bytes& in) {
  constexpr bool is_double = std::is_same_v<T, double>;
  shape s = read_shape(in, true);
  pairwise_options<T, heed::softmax::options<T>> options(in, s, {.backward = true, .sinks = false});
  const gating pattern = gatings[in.below(7)];
  const layouts how = read_layouts(in), of = read_gradient_layouts(in);
  mixture_backward_case<T> x(s, pattern, options.options, how, {of.q, of.k, of.q, of.k, of.v, layout::bhsd},
                             in.byte() + 1u);
  spoil(in, "q", x.q, gentle), spoil(in, "k", x.k, gentle), spoil(in, "v", x.v, gentle);
  spoil(in, "dout", x.dout, gentle);
  const type_mix types = is_double ? type_mix::all(stored::f32) : read_types(in);
  const auto q = stored_as(types.q, x.q), k = stored_as(types.kv, x.k), v = stored_as(types.kv, x.v),
             dout = stored_as(types.o, x.dout);
  const unsigned left_out = in.of({0u, 0u, in.byte()});
  if (left_out & 1) x.asked.dq = {};
  if (left_out & 2) x.asked.dk = {};
  if (left_out & 4) x.asked.dv = {};
  if (left_out & 8) x.asked.dbias = {};
  if (left_out & 16) x.asked.dgates = {};
  if (left_out != 0) tell("gradients left out: ", left_out);
  try {
    x.mix();
  } catch (const stop_calling&) {
    return tell("stopped by the caller's function");
  }
  const auto o = stored_as(types.o, x.o);
  if (left_out & 32) x.options.lse = {};
  std::string wrong;
  if (in.one_in(14)) {
    if (x.asked.dgates.data() != nullptr) break_view(in, x.asked.dgates, true), wrong = "dgates";
    if (x.asked.dgates.data() == nullptr) wrong.clear();
  }
  const buffers<T> outputs{&x.dq, &x.dk, &x.dv, &x.dbias, &x.dgates};
  const auto written = [&] { return hash_of<T>(outputs); };
  place at(in);
  const bool ran = run_at(
      at, wrong, [&](const heed::context& ctx) { return x.mix_back_plan(ctx); },
      [&](const heed::context& ctx) { x.mix_back(ctx); }, written);
  for (const buffer<T>* each : outputs) demand(each->canaries_alive(), "backward writes outside a gradient");
  if (!ran) return;
  const verdict result = compare_mixture(x, x.want({0, rounding_of(types.o)}));
  demand(result.worst <= 1, result.where);
  if constexpr (!is_double) {
    const std::uint64_t bits = written();
    test_executor others(in.between(1, 5), order::shuffled);
    run_stored_mixture_backward({{q.cview(), k.cview(), v.cview(), o.view()}, dout.cview()}, x.gates.view3(), x.asked,
                                x.options, {.executor = others});
    demand(written() == bits, "bits of gradients depend on the executor, or on what tensors are stored as");
  }
}
void fuzz_mixture_of_head_backward(bytes& in) {
  in_a_type(in, [&](auto x) { backward<decltype(x)>(in); });
}

template <class T> static void decode(bytes& in) {
  decode_problem p = read_decode(in);
  if (p.heads > 0 && !p.per_head) p.kv_heads = std::min(p.heads, p.kv_heads);
  if (p.heads > 0 && p.heads < p.kv_heads) std::swap(p.heads, p.kv_heads), p.per_head = false, p.lengths = {5};
  decode_target<T> x(in, p);
  const auto gates = buffer<T>::input({x.s.batch, x.s.heads, x.s.queries, 1},
                                      in.of({layout::bhsd, layout::bshd, layout::padded_rows}));
  fill_gates(gates, gatings[in.below(7)], in.byte() + 1u);
  gates.poison_padding();
  decode_gates<T> view = gates.view3();
  if (x.wrong.empty() && in.one_in(30)) break_view(in, view, false), x.wrong = "gates";
  x.check(
      in, [&](const heed::context& ctx) { return plan_decode<T>(x.call, view, x.c.options, ctx); },
      [&](const heed::context& ctx) { run_decode<T>(x.call, view, x.c.options, ctx); }, &view, nullptr);
}
void fuzz_mixture_of_head_decode(bytes& in) {
  in_a_type(in, [&](auto x) { decode<decltype(x)>(in); });
}

template <class T> static void route(bytes& in) {
  namespace reference = heed::reference::mixture_of_head;
  const index_t batch = in.of<index_t>({1, 1, 2, 0}), heads = in.of<index_t>({4, 1, 2, 3, 8, 0, 40}), n = in.tokens();
  const bool by_norm = in.flip();
  heed::mixture_of_head::routing how{in.below(heads + 1), 0};
  how.active = by_norm ? in.below(heads - how.shared + 1) : how.shared == heads ? 0 : 1 + in.below(heads - how.shared);
  if (!by_norm && in.one_in(9)) how = {0, 0};
  std::string wrong;
  if (in.one_in(12)) how.active = in.of({heads - how.shared + 1, index_t{-1}}), wrong = "active";
  tell(by_norm ? "by norm" : "trained", ", batch ", batch, ", heads ", heads, ", tokens ", n, ", shared ", how.shared,
       ", active ", how.active);
  const auto numbers = [&](index_t h, index_t d, bool ties) {
    auto x = buffer<T>::input({batch, h, n, d}, in.of({layout::bhsd, layout::bshd, layout::reversed_rows}));
    random_numbers random(in.byte() + 1u);
    x.randomize(random);
    if (ties) x.each([](T& a) { a = std::round(a); });
    spoil(in, "logits", x, gentle), x.poison_padding();
    return x;
  };
  const auto gates = buffer<T>::output({batch, heads, n, 1}, in.of({layout::bhsd, layout::bshd, layout::padded_rows}));
  const auto expected = buffer<T>::output(gates.size());
  const index_t first = how.active == 0 && !by_norm ? heads : how.shared;
  const auto q = numbers(heads, by_norm ? in.dim() : 1, in.flip());
  const auto routed = numbers(std::max<index_t>(heads - first, 0), 1, in.flip()), shared = numbers(first, 1, false),
             mix = numbers(2, 1, false);
  double loss = 0, expected_loss = 0;
  try {
    if (by_norm)
      run_route_by_norm<T>(q.cview(), how, gates.view3());
    else
      loss = run_route_trained<T>(routed.view3(), shared.view3(), mix.view3(), how, gates.view3());
  } catch (const heed::error& e) {
    demand(!wrong.empty() && has_word(e.what(), wrong), std::string("a routing that fits is refused: ") + e.what());
    return demand(gates.untouched(), "a refused routing has written gates");
  }
  demand(wrong.empty(), "a wrong routing is accepted");
  demand(gates.canaries_alive(), "the router writes outside its gates");
  if (gates.view().empty()) return;
  if (by_norm)
    reference::route_by_norm(q.cview(), how, expected.view3());
  else
    expected_loss = reference::route_trained(routed.view3(), shared.view3(), mix.view3(), how, expected.view3());
  verdict result;
  const double eps = static_cast<double>(8 + heads) * static_cast<double>(std::numeric_limits<T>::epsilon());
  const double least = static_cast<double>(std::numeric_limits<T>::min());
  for (index_t i = 0; i < batch * heads * n; ++i) {
    const index_t b = i / (heads * n), h = i / n % heads, t = i % n;
    const double x = static_cast<double>(expected(b, h, t));
    result.add(static_cast<double>(gates(b, h, t)), x, eps * std::abs(x) + least, "gate", b, h, t, 0);
  }
  result.add(loss, expected_loss, 1e-12 * std::abs(expected_loss) + 1e-300, "loss", 0, 0, 0, 0);
  demand(result.worst <= 1, result.where);
}
void fuzz_mixture_of_head_route(bytes& in) {
  in_a_type(in, [&](auto x) { route<decltype(x)>(in); });
}

// Head counts of a variant, and forward with them
void fuzz_sparse_query_forward(bytes& in) {
  using heed::sparse_query::variant;
  const index_t heads = in.of<index_t>({4, 8, 4, 1, 2, 6, 16, 0, -4}), dim = in.dim();
  const auto number = in.below(11);
  heed::sparse_query::model m{heads * dim, heads, static_cast<variant>(number), 0, 0};
  if (in.one_in(8)) m.query_heads = in.of<index_t>({2, 3, -1}), m.kv_heads = in.of<index_t>({1, 2, -2, 0});
  if (in.one_in(20)) ++m.width;
  tell("width ", m.width, ", heads ", heads, ", variant ", number, ", ", m.query_heads, " ", m.kv_heads);
  // Of H heads: numerators of quarters; 0: one head
  constexpr index_t query[] = {4, 4, 4, 2, 2, 1, 1, 3, 1}, kv[] = {4, 1, 0, 1, 2, 1, 0, 1, 2};
  heed::sparse_query::layout chosen{};
  std::string error;
  try {
    chosen = heed::sparse_query::choose_heads(m);
  } catch (const heed::error& e) {
    error = e.what();
  }
  const bool known = number < 9, positive = heads > 0 && m.query_heads >= 0 && m.kv_heads >= 0;
  const auto count = [&](index_t given, index_t quarters) {  // 0: not whole
    return given > 0 ? given : quarters == 0 ? 1 : heads * quarters % 4 == 0 ? heads * quarters / 4 : 0;
  };
  const index_t h = known && positive ? count(m.query_heads, query[number]) : 0,
                hk = known && positive ? count(m.kv_heads, kv[number]) : 0;
  const bool fits = h > 0 && hk > 0 && m.width % heads == 0 && m.width > 0 && std::max(h, hk) % std::min(h, hk) == 0;
  demand(fits == error.empty(), "choose_heads " + (error.empty() ? "accepts a model" : "says: " + error));
  if (!fits) return;
  demand(chosen.query_heads == h && chosen.kv_heads == hk && chosen.out_heads == std::max(h, hk) &&
             chosen.head_dim == m.width / heads,
         "choose_heads returns other counts");
  shape s{in.of<index_t>({1, 2}),
          chosen.query_heads,
          chosen.kv_heads,
          in.tokens() % 24,
          in.tokens() % 24,
          chosen.head_dim,
          dim};
  tell(to_string(s));
  forward_call<float> x(in, s);
  if (!x.run(in)) return;
  x.check_results();
}

}  // namespace heed_test
