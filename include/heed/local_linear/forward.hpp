// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Local linear attention: a weighted linear regression of the values at every query, in its centred form.
//
//   p = softmax weights of the visible keys;  mean = sum_j p_j k_j;  C = sum_j p_j (k_j - mean)(k_j - mean)^T + ridge
//   y = C^-1 (q - mean);  o = sum_j p_j (1 + (k_j - mean) . y) v_j
//
// One task is a tile of queries in lanes, as in softmax. Passes over the keys: weights and means; the solves, matrix-free
// or by a matrix per lane; the output. Up to 4 MiB of weights are kept from pass to pass, others are computed
// anew: scratch does not grow with N or M, and no N x D x D or N x M is ever formed.

#include <atomic>

#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "heed/local_linear/conjugate_gradients.hpp"
#include "heed/local_linear/direct.hpp"
#include "heed/tile/tasks.hpp"

namespace heed::local_linear {
namespace detail {
inline namespace HEED_ISA {

// What a report is made of; sums and maxima, so that no order of tasks shows.
struct tally {
  index_t rows = 0, iterations = 0, tiles = 0, tile_iterations = 0, most = 0, unconverged = 0, direct = 0;
  double residual = 0;

  void add(const tally& x) {
    rows += x.rows, iterations += x.iterations, tiles += x.tiles, tile_iterations += x.tile_iterations;
    most = std::max(most, x.most), unconverged += x.unconverged, direct += x.direct;
    residual = std::max(residual, x.residual);
  }
  local_linear::report report() const {
    const auto mean = [](index_t sum, index_t count) {
      return count == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(count);
    };
    return {residual, mean(iterations, rows), mean(tile_iterations, tiles), most, unconverged, direct};
  }
};

template <class T> class driver {
 public:
  using tile_type = tile::query_tile<T>;
  static constexpr index_t w = simd::width<T>, lanes = tile_type::most_rows;

  driver(const problem<T>& p, heed::detail::arena& memory)
      : p_(p),
        weights_(p, memory),
        out_(p.e, memory),
        mean_(memory.take<T>(lanes * p.d)),
        y_(memory.take<T>(lanes * p.d)),
        r_(memory.take<T>(lanes * p.d)),
        q_(memory.take<T>(lanes * p.d)),
        t_(memory.take<T>(lanes * tile_type::most_keys)),
        finite_(memory.take<T>(tile_type::most_keys * tile::lane_sums<T>::slice)),
        ridge_(memory.take<T>(lanes)),
        shift_(memory.take<T>(lanes)),
        total_(memory.take<T>(lanes)),
        factor_(memory.take<T>(lanes)),
        cg_(with<conjugate_gradients<T>>(p, p.solves && p.opt.solver != solver::direct, memory)),
        direct_(with<direct_solver<T>>(p, p.solves && p.opt.solver != solver::conjugate_gradient, memory)) {}

  void run(const tile::sequence& s, index_t kv_head, index_t tile) {
    const index_t first = tile * lanes;
    rows_.take(kv_head, p_.group, first, std::min(lanes, p_.rows(s) - first));
    weights_.begin(s, kv_head, rows_, mean_);
    if (s.keys > 0) v_ = p_.value(s, kv_head, 0);
    solved_directly_ = 0;
    if (p_.solves)
      solve(s);
    else
      take_slopes(s);
    attend(false);
    if (!out_.finite()) attend(true);
    finish(s);
  }
  const tally& counts() const { return counts_; }

 private:
  static constexpr std::size_t at(index_t l) { return static_cast<std::size_t>(l); }
  static constexpr std::uint64_t bit(index_t l) { return std::uint64_t{1} << l; }

  // A solver that the call does not need has no scratch.
  template <class Solver> static Solver with(const problem<T>& p, bool needed, heed::detail::arena& memory) {
    heed::detail::arena none;
    return needed ? Solver(p, memory) : Solver(p, none);
  }

  void gather_queries(const tile::sequence& s) {
    std::array<const T*, tile::most_lanes> q;
    for (index_t l = 0; l < rows_.count; ++l) q[at(l)] = p_.query(s, rows_.row[at(l)].head, rows_.row[at(l)].query);
    tile::gather(q.data(), rows_.count, p_.d, T(1), q_, weights_.row());
  }
  void take_slopes(const tile::sequence& s) {
    std::array<const T*, tile::most_lanes> y;
    for (index_t l = 0; l < rows_.count; ++l)
      y[at(l)] = p_.given_slope(s, rows_.row[at(l)].head, rows_.row[at(l)].query);
    tile::gather(y.data(), rows_.count, p_.d, T(1), y_, weights_.row());
  }

  void solve(const tile::sequence& s) {
    const index_t row = weights_.row();
    gather_queries(s);
    std::uint64_t open = 0;  // lanes that have something to solve
    for (index_t l = 0; l < row; ++l) {
      const double ridge = l < rows_.count ? p_.ridge.at(rows_.row[at(l)].head) : 1;
      const bool finite =
          ridge < 1e-10 * double{std::numeric_limits<T>::max()};  // else no slope that T could tell from 0
      ridge_[l] = finite ? static_cast<T>(std::max(ridge, double{std::numeric_limits<T>::min()})) : T(1);
      if (l < rows_.count && finite && !(weights_.l()[l] == T(0))) open |= bit(l);
    }
    std::fill(y_, y_ + p_.d * row, T(0));
    if (open == 0) return;
    if (p_.opt.solver != solver::direct && !(p_.opt.solver == solver::automatic && few_keys())) iterate(open);
    if (open != 0 && p_.opt.solver != solver::conjugate_gradient) solve_directly(open);
  }

  // With so few keys the matrices cost about what the iterations do, and small ridges make iterations fail.
  // bench/local_linear_bench.cpp, rows solver.
  bool few_keys() const { return weights_.keys() <= p_.d / 4; }

  // Leaves in `open` what has not converged.
  void iterate(std::uint64_t& open) {
    const index_t row = weights_.row();
    subtract_mean();
    const auto out = cg_.solve(weights_, open, q_, mean_, ridge_, r_, y_, p_.opt.tolerance, p_.opt.max_iterations);
    counts_.tiles += 1, counts_.tile_iterations += out.iterations;
    std::uint64_t unconverged = 0;
    for (index_t l = 0; l < row; ++l) {
      if ((open & bit(l)) == 0) continue;
      counts_.rows += 1, counts_.iterations += out.each[at(l)];
      counts_.most = std::max(counts_.most, out.each[at(l)]);
      if (out.residual[at(l)] > p_.opt.tolerance) unconverged |= bit(l);
      if (p_.opt.solver != solver::automatic)
        settle(out.residual[at(l)]);
      else if ((unconverged & bit(l)) == 0)
        settle(out.residual[at(l)]);
    }
    open = unconverged;
  }
  void subtract_mean() {
    for (index_t i = 0; i < p_.d * weights_.row(); i += w)
      simd::store(r_ + i, simd::load(q_ + i) - simd::load(mean_ + i));
  }
  void settle(double residual) {
    counts_.residual = std::max(counts_.residual, residual);
    counts_.unconverged += residual > p_.opt.tolerance ? 1 : 0;
  }

  void solve_directly(std::uint64_t open) {
    constexpr index_t wide = direct_solver<T>::wide;
    solved_directly_ = open;
    counts_.direct += std::popcount(open);
    const index_t row = weights_.row();
    for (index_t g = 0; g * wide < row; ++g) {
      if (!in_group(open, g)) continue;
      direct_.solve(weights_, g, q_, mean_, ridge_);
      for (index_t l = g * wide; l < (g + 1) * wide; ++l)
        for (index_t d = 0; (open & bit(l)) != 0 && d < p_.d; ++d)
          y_[d * row + l] = static_cast<T>(direct_.slope(l, d));
    }
  }
  static bool in_group(std::uint64_t which, index_t g) {
    constexpr index_t wide = direct_solver<T>::wide;
    return (which >> (g * wide) & ((std::uint64_t{1} << wide) - 1)) != 0;
  }

  // o = sum_j p_j (1 + (k_j - mean) . y) v_j, and the sum of its weights, which is 1 but for rounding
  void attend(bool careful) {
    constexpr index_t wide = direct_solver<T>::wide;
    const index_t row = weights_.row();
    tile::lane_dot(mean_, y_, row, p_.d, row, shift_);
    for (index_t l = 0; l < row; ++l) shift_[l] -= T(1);
    std::fill(total_, total_ + row, T(0));
    for (index_t g = 0; g * wide < row; ++g)
      if (in_group(solved_directly_, g)) direct_.begin_weights(g);
    out_.begin(weights_.vectors(), factor_);
    const auto visit = [&](const tile::key_tile& keys, const tile::known_weights<T>& p, const T* k, index_t k_row) {
      const T* const v = v_ + keys.key * p_.v.stride(2);
      const bool check = careful && !tile::all_finite(v, p_.v.stride(2), keys.keys, p_.e);
      for (index_t i = 0; i < keys.count; ++i) {
        const tile::weight_block& b = keys.block[at(i)];
        make_weights(b, p, k, k_row);
        if (check) {
          tile::note_seen(p.p, row, b, seen_);
          out_.add_visible(v, p_.v.stride(2), t_, b, seen_, finite_);
        } else {
          out_.add(v, p_.v.stride(2), t_, b);
        }
      }
    };
    careful ? weights_.each_with_scores(visit) : weights_.each(visit);
    out_.finish();
  }
  void make_weights(const tile::weight_block& b, const tile::known_weights<T>& p, const T* k, index_t k_row) {
    constexpr index_t wide = direct_solver<T>::wide;
    const index_t row = weights_.row(), lane = b.from * w;
    key_products(k, k_row, b, y_, p_.d, row, t_);
    tile::product(p.at(b.first, lane), b.keys, b.to - b.from, t_ + b.first * row + lane, shift_ + lane, total_ + lane);
    for (index_t g = lane / wide; g * wide < b.to * w; ++g)
      if (in_group(solved_directly_, g)) direct_.weigh(g, solved_directly_, b, p, k, k_row, t_);
  }

  void finish(const tile::sequence& s) {
    const index_t row = weights_.row();
    std::array<T*, tile::most_lanes> o, slope, mean;
    for (index_t l = 0; l < rows_.count; ++l) {
      const auto [head, query] = rows_.row[at(l)];
      o[at(l)] = p_.output(s, head, query);
      if (p_.lse.data() != nullptr) *p_.lse_at(s, head, query) = tile::natural_lse(weights_.m()[l], weights_.l()[l]);
      if (p_.opt.slope.data() != nullptr) slope[at(l)] = p_.row(p_.opt.slope, s, head, query);
      if (p_.opt.mean_key.data() != nullptr) mean[at(l)] = p_.row(p_.opt.mean_key, s, head, query);
      if ((solved_directly_ & bit(l)) == 0) continue;
      settle(direct_.residual(l, q_, row, static_cast<double>(ridge_[l])));
      total_[l] = static_cast<T>(direct_.total(l));
    }
    tile::reciprocals(total_, row, factor_);
    tile::scatter(out_.data(), row, factor_, o.data(), rows_.count, p_.e);
    std::fill(factor_, factor_ + row, T(1));
    if (p_.solves && p_.opt.slope.data() != nullptr) tile::scatter(y_, row, factor_, slope.data(), rows_.count, p_.d);
    if (p_.opt.mean_key.data() != nullptr) tile::scatter(mean_, row, factor_, mean.data(), rows_.count, p_.d);
  }

  const problem<T>& p_;
  tile_weights<T> weights_;
  tile::lane_sums<T> out_;
  T *mean_, *y_, *r_, *q_, *t_, *finite_, *ridge_, *shift_, *total_, *factor_;
  conjugate_gradients<T> cg_;
  direct_solver<T> direct_;
  tile::tile_rows rows_;
  tile::seen_keys<T> seen_;
  std::uint64_t solved_directly_ = 0;
  tally counts_;
  const T* v_ = nullptr;
};

template <class T> index_t tiles_of(index_t rows) { return tile::query_tile<T>::tiles(rows); }

// Which sizes and options chose the path; for the plans alone.
template <class T> void explain(plan& how, const problem<T>& p) {
  heed::detail::message text(how.why);
  const index_t keys = p.k.extent(2), kept = tile_weights<T>::kept_keys;
  if (how.tasks == 0)
    text << "no rows";
  else if (keys <= kept)
    text << "weights of all " << keys << " keys kept";
  else
    text << "weights of " << kept << " of " << keys << " keys kept, the others computed in every pass";
  if (p.solves && p.opt.solver == solver::automatic)
    text << "; tiles of up to " << p.d / 4 << " keys solved directly at once";
  tile::name_options(text, p);
}

template <class T> plan make_plan(const problem<T>& p, const context& where, index_t workers) noexcept {
  plan out{};
  if (!check_call(p, out.problem)) return out;
  out.isa = HEED_NAME(HEED_LEVEL);
  out.path = !p.solves                           ? "local_linear: slopes given"
             : p.opt.solver == solver::direct    ? "local_linear: direct"
             : p.opt.solver == solver::automatic ? "local_linear: conjugate gradients, direct where they fail"
                                                 : "local_linear: conjugate gradients";
  out.query_tile = driver<T>::lanes, out.key_tile = tile::query_tile<T>::most_keys;
  out.chunk = p.scores.any() ? tile::query_tile<T>::chunk : 0;
  const index_t sequences = p.heads == 0 ? 0 : p.sequences(),
                different = p.packed() ? sequences : std::min<index_t>(sequences, 1);
  for (index_t s = 0; s < different; ++s)
    out.tasks += p.kv_heads * tiles_of<T>(p.rows(p.sequence_at(s))) * (p.packed() ? 1 : sequences);
  const index_t slots = std::min(out.tasks, workers);
  if (slots > 0) {
    heed::detail::arena counted;
    static_cast<void>(driver<T>(p, counted));
    out.workspace_bytes = static_cast<std::size_t>(slots) * counted.needed();
  }
  heed::detail::check_workspace(out.problem, where.workspace, out.workspace_bytes);
  return out;
}

[[noreturn]] HEED_NOINLINE inline void fail_to_converge(const tally& all, double tolerance) {
  heed::detail::problem_text text;
  heed::detail::write(text, "local_linear: ", all.unconverged, " rows did not converge, the largest residual is ",
                      all.residual, ", tolerance is ", tolerance,
                      " (a report, or solver::automatic, avoids this error)");
  heed::detail::fail_to_converge(text.data());
}

template <class T> void call(const problem<T>& p, const context& where) {
  const index_t workers = where.executor.concurrency();  // asked once: scratch is planned for as many slots as run
  const plan how = make_plan(p, where, workers);
  if (!how.ok()) heed::detail::fail(how.problem.data());
  tally all;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  tile::run_tasks(how, where, workers, [&](std::span<std::byte> memory, auto claim) {
    heed::detail::arena scratch(memory, memory.size());
    driver<T> mine(p, scratch);
    tile::task_list tasks(static_cast<const tile::attention<T>&>(p), &tiles_of<T>);
    claim([&](index_t task) {
      tasks.visit(task, [&](const tile::sequence& s, index_t kv_head, index_t tile) { mine.run(s, kv_head, tile); });
    });
    while (busy.test_and_set(std::memory_order_acquire)) {
    }
    all.add(mine.counts());
    busy.clear(std::memory_order_release);
  });
  if (!p.solves) return;
  if (p.opt.report != nullptr)
    *p.opt.report = all.report();
  else if (p.opt.solver != solver::automatic && all.unconverged > 0)
    fail_to_converge(all, p.opt.tolerance);
}

template <class... Tensors> constexpr bool same_storage() {
  using T = std::common_type_t<heed::detail::value_t<Tensors>...>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: local_linear takes float or double");
  static_assert((std::is_same_v<T, heed::detail::value_t<Tensors>> && ...), "heed: all tensors have one element type");
  return true;
}

// o of a plan is not written, whatever the caller's constness
template <class T, viewable O> tensor_view<T, 4> as_output(const O& o) {
  const tensor_view<const T, 4> x(o);
  return {const_cast<T*>(x.data()),
          {x.extent(0), x.extent(1), x.extent(2), x.extent(3)},
          {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}

template <class T, viewable Q, viewable K, viewable V>
problem<T> make_problem(const Q& q, const K& k, const V& v, tensor_view<T, 4> o, const options<T>& opt) {
  return {tile::make_attention<T, options<T>>(q, k, v, o, opt), opt};
}

}  // namespace HEED_ISA
}  // namespace detail

inline namespace HEED_ISA {

// What forward would do with the same arguments, or why it would throw; never throws itself.
template <viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(const Q& q, const K& k, const V& v, const per_head& ridge, const O& o,
                  const options<acc_of<Q>>& opt = {}, const context& where = {}) noexcept {
  static_assert(detail::same_storage<Q, K, V, O>());
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T>(q, k, v, detail::as_output<T>(o), opt);
  p.ridge = ridge;
  plan how = detail::make_plan(p, where, where.executor.concurrency());
  if (how.ok()) detail::explain(how, p);
  return how;
}

// o_i = sum_j p_j (1 + (k_j - mean) . y_i) v_j: the value at q_i of the linear regression of the values on the keys,
// weighted by the softmax weights p, with a free intercept and `ridge` times the squared slope as penalty.
// q (B, H, N, D), k (B, Hk, M, D), v (B, Hk, M, E), o (B, max(H, Hk), N, E), float or double, any strides but unit on
// the last axis; ridge > 0 in units of |k|^2, one or one for each head of o, infinity for softmax attention. A row that
// sees no key: o = 0, lse = -inf, slope = 0. Hidden keys have no effect, even where they hold NaN.
// Throws heed::error, before anything is written, where shapes or options do not fit; not_converged, after o is written,
// where a solver asked for by name leaves rows above the tolerance and no report is there to say so.
// Local linear attention as in FlashLLA (its README and code), centred: docs/kernels/local_linear.md.
template <viewable Q, viewable K, viewable V, viewable O>
void forward(const Q& q, const K& k, const V& v, const per_head& ridge, O&& o, const options<acc_of<Q>>& opt = {},
             const context& where = {}) {
  static_assert(detail::same_storage<Q, K, V, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T>(q, k, v, tensor_view<T, 4>(o), opt);
  p.ridge = ridge;
  detail::call(p, where);
}

template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
plan plan_apply(const Q& q, const K& k, const V& v, const Y& slope, const O& o, const options<acc_of<Q>>& opt = {},
                const context& where = {}) noexcept {
  static_assert(detail::same_storage<Q, K, V, Y, O>());
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T>(q, k, v, detail::as_output<T>(o), opt);
  p.given = slope, p.solves = false;
  plan how = detail::make_plan(p, where, where.executor.concurrency());
  if (how.ok()) detail::explain(how, p);
  return how;
}

// The last pass of forward alone, with slopes (B, max(H, Hk), N, D) of the caller's for y: 0 is softmax attention, the
// slopes of forward give its o again, minus a probe is Parallax (arXiv 2605.29157). Writes lse and mean_key where
// options have them; options::slope and those of the solver have no part in it.
template <viewable Q, viewable K, viewable V, viewable Y, viewable O>
void apply(const Q& q, const K& k, const V& v, const Y& slope, O&& o, const options<acc_of<Q>>& opt = {},
           const context& where = {}) {
  static_assert(detail::same_storage<Q, K, V, Y, O>());
  static_assert(heed::detail::writable<O>, "heed: o is written, it cannot be const or an owning temporary");
  using T = heed::detail::value_t<Q>;
  detail::problem<T> p = detail::make_problem<T>(q, k, v, tensor_view<T, 4>(o), opt);
  p.given = slope, p.solves = false;
  detail::call(p, where);
}

}  // namespace HEED_ISA
}  // namespace heed::local_linear
