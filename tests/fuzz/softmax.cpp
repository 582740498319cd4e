// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of softmax::forward, backward, merge and prepare.

#include "fuzz/softmax_call.hpp"
#include "fuzz/target.hpp"
#include "support/half_backward_case.hpp"

namespace heed_test {

template <class T> static void forward(bytes& in) {
  forward_call<T> x(in);
  if (!x.run(in)) return;
  x.check_results();
  x.check_bits(in);
}
void fuzz_softmax_forward(bytes& in) {
  in_a_type(in, [&](auto x) { forward<decltype(x)>(in); });
}

// Gradients beside the reference, with o and lse of a forward in T.
template <class T> static void backward(bytes& in) {
  constexpr bool is_double = std::is_same_v<T, double>;
  using case_type = std::conditional_t<is_double, backward_case<double>, half_backward>;
  shape s = read_shape(in);
  pairwise_options<T, heed::softmax::options<T>> options(in, s, {.backward = true});
  const layouts how = read_layouts(in);
  gradient_layouts of;
  if (in.one_in(4))
    of = {read_layout(in, false), read_layout(in, false), read_layout(in, true),
          read_layout(in, true),  read_layout(in, true),  layout::bhsd};
  case_type x = [&] {
    if constexpr (is_double) {
      return case_type(s, options.options, how, of, in.byte() + 1u);
    } else {
      const type_mix types = read_types(in);
      return case_type(types, in.flip() ? stored::f32 : types.o, s, options.options, how, of);
    }
  }();
  const std::pair<const char*, const buffer<T>*> inputs[] = {
      {"q", &x.q}, {"k", &x.k}, {"v", &x.v}, {"dout", &x.dout}, {"dlse", &x.dlse}};
  for (const auto& [name, tensor] : inputs) spoil(in, name, *tensor, gentle);
  const unsigned left_out = in.of({0u, 0u, in.byte()});
  if (left_out & 1) x.wanted.dq = {};
  if (left_out & 2) x.wanted.dk = {};
  if (left_out & 4) x.wanted.dv = {};
  if (left_out & 8) x.wanted.dbias = {};
  if (left_out & 16) x.wanted.dsink_logits = {};
  if (left_out & 32) x.wanted.dalibi_slopes = {};
  if (left_out & 64) x.wanted.dlse = {};
  const bool no_lse = (left_out & 128) != 0;
  if (left_out != 0) tell("gradients left out: ", left_out);

  exactness exact;
  try {
    if constexpr (is_double)
      x.forward();
    else
      store_anew(x.at, x), x.stored_dout.take(x.dout), x.stored_dout.copy_to(x.dout), x.forward_in_float(),
          exact.o = rounding_of(x.at.types.o);
  } catch (const stop_calling&) {
    return tell("stopped by the caller's function");
  }
  if (no_lse) x.options.lse = {};
  std::string wrong;
  if (in.one_in(14)) {
    const index_t kind = in.below(7);
    T* const null = nullptr;
    if (kind == 0) break_view(in, x.wanted.dq, true), wrong = "dq";
    if (kind == 1) break_view(in, x.wanted.dk, true), wrong = "dk";
    if (kind == 2) break_view(in, x.wanted.dv, true), wrong = "dv";
    if (kind == 3 && x.wanted.dlse.data() != nullptr) break_view(in, x.wanted.dlse, false), wrong = "dlse";
    if (kind == 4) x.wanted.dsink_logits = {&x.dsinks(0, 0, 0), {s.out_heads() + 1}, {1}}, wrong = "dsink_logits";
    if (kind == 5 && options.options.bias.data() == null) x.wanted.dbias = x.dq.view(), wrong = "dbias";
    if (kind == 6) {
      const auto lse = x.options.lse;
      options.break_one(in, s), wrong = options.wrong;
      x.options = options.options, x.options.lse = lse;
    }
    // A null gradient is left out.
    if ((kind == 0 && x.wanted.dq.data() == null) || (kind == 1 && x.wanted.dk.data() == null) ||
        (kind == 2 && x.wanted.dv.data() == null) || (kind == 3 && x.wanted.dlse.data() == null))
      wrong.clear();
  }
  const auto plan = [&](const heed::context& ctx) {
    if constexpr (is_double)
      return x.backward_plan(ctx);
    else
      return plan_stored_backward({x.call(), x.stored_dout.cview()}, x.wanted, x.options, ctx);
  };
  const auto written = [&] { return hash_of<T>(x.outputs()); };
  place at(in);
  const bool ran = run_at(at, wrong, plan, [&](const heed::context& ctx) { x.backward(ctx); }, written);
  for (const buffer<T>* each : x.outputs()) demand(each->canaries_alive(), "backward writes outside a gradient");
  if (!ran) return;
  const verdict result = compare(x, expected(x, x.options, exact));
  demand(result.worst <= 1, result.where);
  if (!in.one_in(8)) return;
  test_executor others(in.between(1, 5), order::shuffled);
  const std::uint64_t bits = written();
  x.poison_gradients(), x.backward({.executor = others});
  demand(written() == bits, "bits of gradients depend on the executor");
}
void fuzz_softmax_backward(bytes& in) {
  in_a_type(in, [&](auto x) { backward<decltype(x)>(in); });
}

// Runs on the memory that the call was prepared with, and on that of another call of the same shapes.
template <class T> static void prepare(bytes& in) {
  forward_call<T> x(in);
  if (!x.wrong.empty()) return;
  place at(in);
  const heed::plan plan = x.plan(at.plain());
  demand(plan.ok(), std::string("a call that fits is refused: ") + plan.problem.data());
  if (at.lacks_memory(plan.workspace_bytes)) return;
  const heed::context context = at.with(plan.workspace_bytes);
  const auto first = x.call(), again = x.call();
  int runs = 0;
  try {
    if constexpr (std::is_same_v<T, double>)
      run_prepared<T>({{first.q, first.k, first.v, first.o}, {again.q, again.k, again.v, again.o}}, x.c.options,
                      context, [&](auto) { ++runs; });
    else
      run_stored_prepared({first, again}, x.c.options, context, [&](auto) { ++runs; });
  } catch (const stop_calling&) {
    return;
  }
  demand(runs == 2 && at.kept(), "a prepared call did not run twice, or wrote before its workspace");
  x.take_results();
  x.check_results();
}
void fuzz_softmax_prepare(bytes& in) {
  in_a_type(in, [&](auto x) { prepare<decltype(x)>(in); });
}

template <class T> static buffer<double> in_double(const buffer<T>& x) {
  auto y = buffer<double>::input(x.size());
  const auto [b, h, n, d] = x.size();
  for (index_t i = 0; i < b * h * n * d; ++i) {
    const index_t ib = i / (h * n * d), ih = i / (n * d) % h, in = i / d % n, id = i % d;
    y(ib, ih, in, id) = static_cast<double>(x(ib, ih, in, id));
  }
  return y;
}
template <class T> static void merge(bytes& in) {
  const extents n{in.below(3), in.below(4), in.tokens(), in.dim()}, rows{n[0], n[1], n[2], 1};
  const auto how = [&] { return output_layouts[static_cast<std::size_t>(in.below(6))]; };
  auto o = buffer<T>::output(n, how()), lse = buffer<T>::output(rows, how());
  const auto part = buffer<T>::input(n, how()), part_lse = buffer<T>::input(rows, how());
  random_numbers random(in.byte() + 1u);
  for (const buffer<T>* x : buffers<T>{&o, &lse, &part, &part_lse}) {
    x->each([&](T& a) { a = static_cast<T>(random.normal()); });
    spoil(in, "part", *x, gentle);
  }
  const double inf = std::numeric_limits<double>::infinity();
  const double log_weight = in.of({0.0, 0.0, 0.7, -3.0, -inf, 90.0, inf, std::nan("")});
  std::string wrong = log_weight == inf || std::isnan(log_weight) ? "log_weight" : "";
  output<T> o_view = o.view();
  heed::tensor_view<T, 3> lse_view = lse.view3();
  input<T> part_view = part.cview();
  set_absurd_strides(in, o_view), set_absurd_strides(in, part_view);
  if (wrong.empty() && in.one_in(12)) break_view(in, part_view, false, false), wrong = "part";
  tell("merge ", n[0], " ", n[1], " ", n[2], " ", n[3], ", log_weight ", log_weight, ", wrong ", wrong);

  const auto expected = in_double(o), expected_lse = in_double(lse);
  const auto before = o.hash() ^ 3 * lse.hash();
  try {
    run_merge<T>(o_view, lse_view, part_view, part_lse.view3(), log_weight);
  } catch (const heed::error& e) {
    demand(!wrong.empty() && has_word(e.what(), wrong), std::string("merge refuses: ") + e.what());
    return demand(before == (o.hash() ^ 3 * lse.hash()), "merge wrote before it threw");
  }
  demand(wrong.empty(), "merge accepts a wrong " + wrong);
  demand(o.canaries_alive() && lse.canaries_alive(), "merge wrote outside o or lse");
  heed::reference::softmax::merge(expected.view(), expected_lse.view3(), part.cview(), part_lse.view3(), log_weight);
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  verdict result;
  for (index_t r = 0; r < n[0] * n[1] * n[2]; ++r) {
    const index_t b = r / (n[1] * n[2]), h = r / n[2] % n[1], i = r % n[2];
    const double l = expected_lse(b, h, i), size = 16 + std::abs(l) + std::abs(static_cast<double>(part_lse(b, h, i)));
    if (!ordinary(size) && !std::isinf(l)) continue;
    if (std::isinf(l) && l > 0) continue;
    result.add(static_cast<double>(lse(b, h, i)), l, eps * size, "lse", b, h, i, 0);
    for (index_t e = 0; e < n[3]; ++e) {
      const double x = expected(b, h, i, e);
      const double largest = std::abs(x) + std::abs(static_cast<double>(part(b, h, i, e))) + 30;
      if (ordinary(largest))
        result.add(static_cast<double>(o(b, h, i, e)), x, 4 * eps * size * largest, "o", b, h, i, e);
    }
  }
  demand(result.worst <= 1, result.where);
}
void fuzz_softmax_merge(bytes& in) {
  in_a_type(in, [&](auto x) { merge<decltype(x)>(in); });
}

}  // namespace heed_test
