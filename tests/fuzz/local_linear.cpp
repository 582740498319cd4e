// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of local_linear::forward, apply, backward and decode.

#include "fuzz/decode_target.hpp"
#include "fuzz/pairwise_options.hpp"
#include "fuzz/softmax_call.hpp"
#include "fuzz/target.hpp"
#include "support/local_linear_backward_case.hpp"
#include "support/local_linear_decode.hpp"

namespace heed_test {

template <class T> using fit_options = heed::local_linear::options<T>;

// A ridge for all heads, or one each
struct ridges {
  heed::per_head ridge;
  std::vector<double> each;

  ridges(bytes& in, index_t heads) {
    const auto one = [&] { return in.of({0.5, 0.05, 5.0, 0.5, std::numeric_limits<double>::infinity()}); };
    ridge = one();
    if (in.one_in(3)) {
      for (index_t h = 0; h < heads; ++h) each.push_back(one());
      ridge = each;
    }
  }
  ridges(const ridges&) = delete;
  ridges& operator=(const ridges&) = delete;
};

template <class T> static void set_solver(bytes& in, fit_options<T>& how) {
  how.solver = in.of({solver::automatic, solver::conjugate_gradient, solver::direct});
  how.max_iterations = in.of<index_t>({64, 64, 64, 1, 7});
  how.tolerance = in.of({1e-5, 1e-5, 1e-3});
  tell(name_of(how.solver), ", iterations ", how.max_iterations, ", tolerance ", how.tolerance);
}

// What solvers leave where a row is not finite says nothing of the others.
inline void forget_residual(heed::local_linear::report& x) {
  if (!std::isfinite(x.max_residual)) x.max_residual = 0;
}

// Breaks an argument of a call that all verbs have.
template <class T>
static std::string break_fit(bytes& in, heed::per_head& ridge, fit_options<T>& how, index_t heads, bool solves) {
  switch (in.below(solves ? 5 : 2)) {
    case 1:
      if (how.mean_key.data() == nullptr) break;
      return how.mean_key = {how.mean_key.data(), {1, heads + 1, 1, 1}, {}}, "mean_key";
    case 2:
      return ridge = in.of({0.0, -1.0, std::nan("")}), "ridge";
    case 3:
      return how.tolerance = in.of({0.0, -1.0, std::nan("")}), "tolerance";
    case 4:
      return how.max_iterations = -1, "max_iterations";
    default:
      break;
  }
  return how.softcap = -1, "softcap";
}

// forward, or apply with slopes of the caller's
template <class T> static void fit(bytes& in, bool applies) {
  constexpr bool is_double = std::is_same_v<T, double>;
  shape s = read_shape(in);
  pairwise_options<T, fit_options<T>> options(in, s, {.gentle = true});
  const ridges penalty(in, s.out_heads());
  set_solver(in, options.options);
  const layouts how = read_layouts(in);
  local_linear_case<T> x(s, penalty.ridge, options.options, is_double ? how : of_float(how), in.byte() + 1u);
  spoil(in, "q", x.q, gentle), spoil(in, "k", x.k, gentle), spoil(in, "v", x.v, gentle);
  const auto slope = buffer<T>::input(x.slope.size(), how.o);
  if (applies) slope.each([&](T& a) { a = static_cast<T>(x.generator.normal() / 4); });
  const type_mix types = is_double ? type_mix::all(stored::f32) : read_types(in);
  auto at = [&] {
    if constexpr (is_double)
      return 0;
    else
      return stored_tensors(x, types, how);
  }();
  if constexpr (!is_double) store_anew(at, x);
  const unsigned left_out = in.of({0u, 0u, in.byte()});
  if (left_out & 1) x.options.lse = {};
  if (left_out & 2) x.options.mean_key = {};
  if (left_out & 4 || applies) x.options.slope = {};
  heed::per_head ridge = penalty.ridge;
  std::string wrong;
  if (in.one_in(14)) wrong = break_fit(in, ridge, x.options, s.out_heads(), !applies), tell("wrong ", wrong);

  const input<T> given = slope.cview();
  const auto plan = [&](const heed::context& ctx) {
    if constexpr (is_double) {
      if (applies) return run_plan_apply<T>(x.q.cview(), x.k.cview(), x.v.cview(), given, x.o.view(), x.options, ctx);
      return run_plan_forward<T>(x.q.cview(), x.k.cview(), x.v.cview(), ridge, x.o.view(), x.options, ctx);
    } else {
      const stored_call call{at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()};
      return plan_stored_local_linear(call, ridge, applies ? &given : nullptr, x.options, ctx);
    }
  };
  const auto run = [&](const heed::context& ctx) {
    if constexpr (is_double) {
      if (applies) return run_apply<T>(x.q.cview(), x.k.cview(), x.v.cview(), given, x.o.view(), x.options, ctx);
      run_forward<T>(x.q.cview(), x.k.cview(), x.v.cview(), ridge, x.o.view(), x.options, ctx);
    } else {
      const stored_call call{at.q.cview(), at.k.cview(), at.v.cview(), at.o.view()};
      run_stored_local_linear(call, ridge, applies ? &given : nullptr, x.options, ctx);
    }
  };
  const buffers<T> outputs{&x.o, &x.lse, &x.slope, &x.mean};
  const auto written = [&] {
    if constexpr (is_double)
      return hash_of<T>(outputs);
    else
      return hash_of<T>(outputs) ^ 7 * at.o.hash();
  };
  place where(in);
  const bool ran = run_at(where, wrong, plan, run, written);
  for (const buffer<T>* each : outputs) demand(each->canaries_alive(), "the call writes outside its outputs");
  if constexpr (!is_double) demand(at.o.canaries_alive(), "the call writes outside o");
  if (!ran) return;
  const std::uint64_t bits = written();
  if (in.one_in(8)) {
    test_executor others(in.between(1, 5), order::shuffled);
    run({.executor = others});
    demand(written() == bits, "bits depend on the executor");
  }
  if constexpr (!is_double) at.o.copy_to(x.o);
  forget_residual(*x.report);
  try {
    const verdict result = compare(x, fitted(x, penalty.ridge, x.options, applies ? &given : nullptr),
                                   is_double ? storage_rounding{} : rounding_of(types.o));
    demand(result.worst <= 1, result.where);
  } catch (const stop_calling&) {
    report("what the caller's function threw got lost");
  }
}
void fuzz_local_linear_forward(bytes& in) {
  in_a_type(in, [&](auto x) { fit<decltype(x)>(in, false); });
}
void fuzz_local_linear_apply(bytes& in) {
  in_a_type(in, [&](auto x) { fit<decltype(x)>(in, true); });
}

template <class T> static void backward(bytes& in) {
  constexpr bool is_double = std::is_same_v<T, double>;
  shape s = read_shape(in);
  pairwise_options<T, fit_options<T>> options(in, s, {.backward = true, .gentle = true});
  const ridges penalty(in, s.out_heads());
  set_solver(in, options.options);
  const layouts how = read_layouts(in), of = read_gradient_layouts(in);
  local_linear_backward<T> x(s, penalty.ridge, options.options, how, {of.o, of.lse, of.q, of.k, of.v, layout::bhsd},
                             in.byte() + 1u);
  spoil(in, "q", x.q, gentle), spoil(in, "k", x.k, gentle), spoil(in, "v", x.v, gentle);
  spoil(in, "dout", x.dout, gentle);
  const type_mix types = is_double ? type_mix::all(stored::f32) : read_types(in);
  const auto q = stored_as(types.q, x.q), k = stored_as(types.kv, x.k), v = stored_as(types.kv, x.v),
             dout = stored_as(types.o, x.dout), o = stored_as(types.o, x.o);
  const unsigned left_out = in.of({0u, 0u, in.byte()});
  if (left_out & 1) x.wanted.dq = {};
  if (left_out & 2) x.wanted.dk = {};
  if (left_out & 4) x.wanted.dv = {};
  if (left_out & 8) x.wanted.dbias = {};
  if (left_out & 16) x.wanted.dridge = {};
  if (left_out != 0) tell("gradients left out: ", left_out);
  try {
    x.forward();
  } catch (const stop_calling&) {
    return tell("stopped by the caller's function");
  }
  forget_residual(*x.report);
  const double of_forward = x.report->max_residual;
  if (left_out & 32) x.forget();
  std::string wrong;
  if (in.one_in(14)) {
    if (in.flip() && x.wanted.dq.data() != nullptr) {
      break_view(in, x.wanted.dq, true), wrong = x.wanted.dq.data() != nullptr ? "dq" : "";
    } else {
      x.options.tolerance = -1, wrong = "tolerance";
    }
  }
  const buffers<T> outputs{&x.dq, &x.dk, &x.dv, &x.dbias, &x.dridge};
  const auto written = [&] { return hash_of<T>(outputs); };
  place at(in);
  const bool ran = run_at(
      at, wrong, [&](const heed::context& ctx) { return x.backward_plan(ctx); },
      [&](const heed::context& ctx) { x.backward(ctx); }, written);
  for (const buffer<T>* each : outputs) demand(each->canaries_alive(), "backward writes outside a gradient");
  if (!ran) return;
  forget_residual(*x.report);
  x.report->max_residual = std::max(x.report->max_residual, of_forward);
  const verdict result = compare(x, expected(x));
  demand(result.worst <= 1, result.where);
  if constexpr (!is_double) {
    const std::uint64_t bits = written();
    test_executor others(in.between(1, 5), order::shuffled);
    run_stored_local_linear_backward({{q.cview(), k.cview(), v.cview(), o.view()}, dout.cview()}, penalty.ridge,
                                     x.wanted, x.options, {.executor = others});
    demand(written() == bits, "bits of gradients depend on the executor, or on what tensors are stored as");
  }
}
void fuzz_local_linear_backward(bytes& in) {
  in_a_type(in, [&](auto x) { backward<decltype(x)>(in); });
}

template <class T> static void decode(bytes& in) {
  const decode_problem p = read_decode(in);
  shape s = p.as_shape();
  pairwise_options<T, fit_options<T>> options(in, s, {.cached = true, .gentle = true});
  const ridges penalty(in, s.out_heads());
  set_solver(in, options.options);
  local_linear_decode<T> x(p, penalty.ridge, options.options);
  spoil(in, "q", x.tokens.q, gentle);
  if (p.stored_kv != kept::i8) spoil(in, "keys", x.tokens.keys, gentle), spoil(in, "values", x.tokens.values, gentle);
  if (!p.cache.shared) x.tokens.write_all();
  if constexpr (!std::is_same_v<T, double>) x.tokens.stored_q.take(x.tokens.q);
  heed::per_head ridge = penalty.ridge;
  decode_call<T> call = x.tokens.call();
  std::string wrong;
  std::vector<std::int32_t> lengths;
  if (in.one_in(12)) {
    if (in.flip())
      wrong = break_fit(in, ridge, x.fit.options, s.out_heads(), true);
    else
      std::visit([&](auto& cache) { wrong = break_cache(in, cache, s.batch, lengths); }, call.cache);
    tell("wrong ", wrong);
  }
  const auto plan = [&](const heed::context& ctx) { return plan_decode<T>(call, ridge, x.fit.options, ctx); };
  const auto run = [&](const heed::context& ctx) { run_decode<T>(call, ridge, x.fit.options, ctx); };
  const auto written = [&] {
    const std::uint64_t fit = hash_of<T>({&x.fit.lse, &x.fit.slope, &x.fit.mean});
    if constexpr (std::is_same_v<T, double>)
      return fit ^ 3 * x.tokens.o.hash();
    else
      return fit ^ 3 * x.tokens.stored_o.hash();
  };
  place at(in);
  const std::uint64_t before = x.tokens.hash();
  const bool ran = run_at(at, wrong, plan, run, written);
  demand(x.tokens.hash() == before, "decode changes an input");
  demand(x.tokens.kept_canaries() && x.fit.lse.canaries_alive() && x.fit.slope.canaries_alive() &&
             x.fit.mean.canaries_alive(),
         "decode writes outside its outputs");
  if (!ran) return;
  const std::uint64_t bits = written();
  if constexpr (std::is_same_v<T, double>)
    copy_numbers(x.tokens.o, x.fit.o);
  else
    x.tokens.stored_o.copy_to(x.fit.o);
  forget_residual(*x.fit.report);
  try {
    const storage_rounding o = std::is_same_v<T, double> ? storage_rounding{} : rounding_of(p.stored_o);
    const verdict result = compare(x.fit, fitted(x), o);
    demand(result.worst <= 1, result.where);
  } catch (const stop_calling&) {
    report("what the caller's function threw got lost");
  }
  if (!in.one_in(8)) return;
  test_executor others(in.between(1, 5), order::shuffled);
  run({.executor = others});
  demand(written() == bits, "bits of decode depend on the executor");
}
void fuzz_local_linear_decode(bytes& in) {
  in_a_type(in, [&](auto x) { decode<decltype(x)>(in); });
}

}  // namespace heed_test
