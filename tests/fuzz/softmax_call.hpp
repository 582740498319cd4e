// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A call of softmax::forward out of bytes: double, or float with tensors of any storage types.

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "fuzz/numbers.hpp"
#include "fuzz/pairwise_options.hpp"
#include "fuzz/place.hpp"
#include "fuzz/tensors.hpp"
#include "fuzz/views.hpp"
#include "support/half_case.hpp"
#include "support/mixture_case.hpp"

namespace heed_test {

// Head counts of which one divides the other, or, rarely, not
// gated: of the heads of k, which divide those of q
inline shape read_shape(bytes& in, bool gated = false) {
  shape s;
  s.batch = in.of<index_t>({1, 1, 1, 2, 2, 0});
  const auto [heads, kv_heads] =
      in.of<std::pair<index_t, index_t>>({{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 2}, {3, 1}, {0, 0}, {0, 2}, {6, 3}});
  s.heads = heads, s.kv_heads = gated && heads > 0 ? std::min(heads, kv_heads) : kv_heads;
  s.queries = in.tokens(), s.keys = in.one_in(3) ? s.queries : in.tokens();
  s.dim = in.dim(), s.value_dim = in.one_in(2) ? s.dim : in.dim();
  tell(to_string(s));
  return s;
}
// |row| of all rows (batch, head, seq)
template <class T> std::vector<double> norms(const buffer<T>& x) {
  std::vector<double> all;
  const auto [batch, heads, rows, dim] = x.size();
  for (index_t i = 0; i < batch * heads * rows; ++i) {
    const T* const row = &x(i / (heads * rows), i / rows % heads, i % rows);
    double sum = 0;
    for (index_t d = 0; d < dim; ++d) sum += static_cast<double>(row[d]) * static_cast<double>(row[d]);
    all.push_back(std::sqrt(sum));
  }
  return all;
}

// Tensors as a call of double takes them
struct double_call {
  input<double> q, k, v;
  output<double> o;
};

using gated_half_case = stored_case<mixture_case<float>>;

// Gated: of mixture_of_head
template <class T, bool Gated = false> class forward_call {
  static constexpr bool is_double = std::is_same_v<T, double>;
  using call_type = std::conditional_t<is_double, double_call, stored_call>;
  using plain_case = std::conditional_t<is_double, softmax_case<double>, half_case>;
  using gated_case = std::conditional_t<is_double, mixture_case<double>, gated_half_case>;
  using case_type = std::conditional_t<Gated, gated_case, plain_case>;

 public:
  shape s;
  pairwise_options<T, heed::softmax::options<T>> options;
  case_type c;
  std::string wrong;  // a word of the error that the call must be

  explicit forward_call(bytes& in) : forward_call(in, read_shape(in, Gated)) {}
  forward_call(bytes& in, const shape& size) : s(size), options(in, s, {}), c(make(in)), call_(original()) {
    if (in.one_in(5)) c.options.lse = {}, tell("no lse");
    spoil(in, "q", c.q, any_numbers), spoil(in, "k", c.k, any_numbers), spoil(in, "v", c.v, any_numbers);
    if constexpr (is_double) {
      for (const buffer<T>* x : {&c.q, &c.k, &c.v}) x->poison_padding();
    } else {
      store_anew(c.at, c);
    }
    set_absurd_strides(in, call_.q), set_absurd_strides(in, call_.k), set_absurd_strides(in, call_.v);
    set_absurd_strides(in, call_.o), set_absurd_strides(in, c.options.lse);
    if constexpr (Gated) {
      gates_ = c.gates.view3(), set_absurd_strides(in, gates_);
      if (in.one_in(30)) break_view(in, gates_, false), wrong = "gates", tell("wrong gates");
      if (!wrong.empty()) return;
    }
    if (in.one_in(14)) break_something(in);
  }

  const call_type& call() const { return call_; }
  heed::plan plan(const heed::context& ctx) const {
    if constexpr (is_double && Gated)
      return run_mixture_plan<T>(call_.q, call_.k, call_.v, gates_, call_.o, c.options, ctx);
    else if constexpr (is_double)
      return run_plan<T>(call_.q, call_.k, call_.v, call_.o, c.options, ctx);
    else if constexpr (Gated)
      return plan_stored_mixture(call_, gates_, c.options, ctx);
    else
      return plan_stored(call_, c.options, ctx);
  }
  // Runs it once. Returns whether there are results.
  bool run(bytes& in) {
    place at(in);
    const std::uint64_t before = inputs();
    const bool ran = run_at(
        at, wrong, [&](const heed::context& ctx) { return plan(ctx); }, [&](const heed::context& ctx) { run_on(ctx); },
        [&] { return outputs(); });
    demand(inputs() == before, "forward changes an input");
    demand(padding_kept(), "forward writes outside o or lse");
    if (ran) take_results();
    return ran;
  }
  void take_results() {
    if constexpr (!is_double) c.at.o.copy_to(c.o);
  }

  void check_results() const {
    exactness how;
    if constexpr (!is_double) how = c.exact(plan({}));
    const verdict result = compare_ordinary(how);
    demand(result.worst <= 1, result.where);
  }
  // On another executor the results have the same bits.
  void check_bits(bytes& in) {
    if (!in.one_in(8)) return;
    test_executor others(in.between(1, 5), order::shuffled);
    const std::uint64_t bits = outputs();
    poison_outputs(), run_on({.executor = others});
    demand(outputs() == bits, "bits depend on the executor");
  }

 private:
  case_type make(bytes& in) {
    const layouts how = read_layouts(in);
    const std::uint32_t seed = in.byte() + 1u;
    if constexpr (Gated) {
      const gating pattern = gatings[in.below(7)];
      const layout gates_in = in.of({layout::bhsd, layout::bshd, layout::padded_rows});
      tell("gates ", name_of(pattern), ", ", name_of(gates_in));
      if constexpr (is_double)
        return case_type(s, pattern, options.options, how, gates_in, seed);
      else
        return case_type(read_types(in), s, how, pattern, options.options, of_float(how), gates_in, seed);
    } else if constexpr (is_double) {
      return case_type(s, options.options, how, seed);
    } else {
      return case_type(read_types(in), s, options.options, how, seed);
    }
  }
  call_type original() const {
    if constexpr (is_double)
      return {c.q.cview(), c.k.cview(), c.v.cview(), c.o.view()};
    else
      return {c.at.q.cview(), c.at.k.cview(), c.at.v.cview(), c.at.o.view()};
  }
  void break_something(bytes& in) {
    const index_t kind = in.below(7);
    if (kind == 0) break_view(in, call_.q, false), wrong = "q";
    if (kind == 1) break_view(in, call_.k, false), wrong = "k";
    if (kind == 2) break_view(in, call_.v, false), wrong = "v";
    if (kind == 3) break_view(in, call_.o, true), wrong = "o";
    if (kind == 4 && c.options.lse.data() != nullptr) {
      const T* const data = c.options.lse.data();
      break_view(in, c.options.lse, true), wrong = "lse";
      if (c.options.lse.data() == nullptr && data != nullptr) wrong.clear();  // it is left out
    }
    if (kind > 4) {
      const auto lse = c.options.lse;
      options.break_one(in, s), wrong = options.wrong;
      c.options = options.options, c.options.lse = lse;
    }
  }

  void run_on(const heed::context& ctx) const {
    if constexpr (is_double && Gated)
      run_mixture<T>(call_.q, call_.k, call_.v, gates_, call_.o, c.options, ctx);
    else if constexpr (is_double)
      run_forward<T>(call_.q, call_.k, call_.v, call_.o, c.options, ctx);
    else if constexpr (Gated)
      run_stored_mixture(call_, gates_, c.options, ctx);
    else
      run_stored(call_, c.options, ctx);
  }
  // Of a row: 1 without gates. A subnormal gate counts as 0.
  double gate(index_t b, index_t h, index_t n) const {
    if constexpr (Gated) {
      const T x = c.gates(b, h, n);
      return std::abs(x) < std::numeric_limits<T>::min() ? 0 : static_cast<double>(x);
    }
    return 1;
  }
  std::uint64_t inputs() const {
    if constexpr (is_double)
      return c.q.hash() ^ 3 * c.k.hash() ^ 5 * c.v.hash();
    else
      return c.at.hash();
  }
  std::uint64_t outputs() const {
    if constexpr (is_double)
      return c.o.hash() ^ 3 * c.lse.hash();
    else
      return c.at.o.hash() ^ 3 * c.lse.hash();
  }
  bool padding_kept() const {
    const bool kept = c.lse.canaries_alive() && (c.options.lse.data() != nullptr || c.lse.untouched());
    if constexpr (is_double)
      return kept && c.o.canaries_alive();
    else
      return kept && c.at.o.canaries_alive();
  }
  void poison_outputs() {
    c.lse.poison();
    if constexpr (is_double)
      c.o.poison();
    else
      c.at.o.poison();
  }

  // o and lse beside the reference, where sums stay in the range of T. A NaN that a row sees must show.
  verdict compare_ordinary(const exactness& how) const {
    namespace reference = heed::reference::softmax::detail;
    verdict result;
    tolerance allowed = tolerance_of<T>(s.keys, s.dim);
    allowed.weights = how.weights;
    const double scale = std::abs(c.options.scale.value_or(1 / std::sqrt(static_cast<double>(s.dim))));
    const double least = 4 * static_cast<double>(std::numeric_limits<T>::min()) * static_cast<double>(s.keys + 1);
    const double most = !is_double && stored_o() == stored::f16 ? 6e4 : 1e30;
    const index_t heads = s.out_heads();
    const reference::pair_rules<T, heed::softmax::options<T>> rules{c.options, s.dim};
    const std::vector<double> q_norms = norms(c.q), k_norms = norms(c.k);
    const auto row = [&](const reference::sequence& at, index_t h, index_t i, const Eigen::VectorXd& scores,
                         const reference::row_major& values) {
      const double sink = reference::sink_of(c.options, h);
      const reference::row_sums sums(scores, values, sink);
      row_size size;
      double largest_key = 0;
      const index_t b = at.batch, n = at.first_query + i;
      const index_t q_row = (b * s.heads + h / (heads / s.heads)) * s.queries + n,
                    k_row = (b * s.kv_heads + h / (heads / s.kv_heads)) * s.keys + at.first_key;
      size.see_score(sink);
      for (index_t j = 0; j < scores.size(); ++j) {
        if (scores(j) == -HUGE_VAL) {
          // Hidden by a key of -inf: in T perhaps not, where other products overflow or q underflows
          const bool bad = !std::isfinite(k_norms[static_cast<std::size_t>(k_row + j)]);
          if (bad && rules.visible(at, rules.at(at, h, i, j))) return;
          continue;
        }
        size.see_score(scores(j));
        largest_key = std::max(largest_key, k_norms[static_cast<std::size_t>(k_row + j)]);
        for (index_t e = 0; e < values.cols(); ++e) size.see_value(values(j, e));
      }
      // Products that cancel leave a score that is small beside its error.
      const double product = scale * q_norms[static_cast<std::size_t>(q_row)] * largest_key;
      if (!ordinary(size.max_score) || product > 1e30 || largest_key > 1e30) return;
      if (q_norms[static_cast<std::size_t>(q_row)] > 1e30) return;
      tolerance here = allowed;
      here.c0 += std::isnan(product) ? 0 : 4 * product;
      const double factor = gate(b, h, n), lse = factor == 0 ? -HUGE_VAL : sums.lse();
      const auto number = [](T element) { return static_cast<double>(element); };
      if (c.options.lse.data() != nullptr)
        result.add(number(c.lse(b, h, n)), lse, here.of_lse(size), "lse", b, h, n, 0);
      if (c.options.lse.data() != nullptr && lse == -HUGE_VAL)
        demand(number(c.lse(b, h, n)) == lse, "the lse of a row that sees nothing is not -inf");
      if (std::isnan(lse)) {
        for (index_t e = 0; e < s.value_dim; ++e)
          demand(!std::isfinite(number(c.o(b, h, n, e))), "a NaN does not reach o");
        return;
      }
      if (!ordinary(size.max_value)) return;
      for (index_t e = 0; e < s.value_dim; ++e) {
        const double x = sums.sees_nothing() || factor == 0 ? 0 : factor * (sums.values(e) / sums.denominator);
        if (!(std::abs(x) < most)) continue;
        result.add(number(c.o(b, h, n, e)), x, how.o.around(x, std::abs(factor) * here.of_output(size) + least), "o", b,
                   h, n, e);
      }
    };
    try {
      reference::each_row(c.q.cview(), c.k.cview(), c.v.cview(), c.options, row);
    } catch (const stop_calling&) {
      demand(Gated, "what the caller's function threw got lost");  // it is not called for rows whose gate is 0
    }
    return result;
  }
  stored stored_o() const {
    if constexpr (is_double)
      return stored::f32;
    else
      return c.at.types.o;
  }

  call_type call_;
  heed::tensor_view<const T, 3> gates_ = {};
};

}  // namespace heed_test
