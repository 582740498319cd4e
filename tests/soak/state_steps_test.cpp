// SPDX-License-Identifier: BSD-3-Clause

// One million decode steps on the states of linear and lightning attention. Every output has the bits of the same
// tokens in batches. At checkpoints the state has those bits, too, is that of a forward from the last batch on and
// of sums in double, holds no subnormal number, though input fades away and is zero for part of the way, and a step
// takes as many instructions as at the beginning.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "heed/lightning.hpp"
#include "heed/linear.hpp"
#include "soak/steps.hpp"
#include "support/catch.hpp"
#include "support/tolerance.hpp"

using namespace heed_test;

namespace {

constexpr index_t heads = 4;
constexpr long batch = 500;  // tokens

enum class kind { linear, slopes, gates };

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::array<double, heads> slopes{0, 0x1p-8, 0.5, 95};  // exp(-95) is subnormal in float

// log(lambda) of a token: hardly a decay; any to exp(-5); often below what float has; a cut now and then
float log_gate_at(long token, index_t head) {
  const float x = (number_at(static_cast<std::uint64_t>(token), 999983 + static_cast<std::uint64_t>(head)) - 1) / 2;
  if (head == 0) return 0.01f * x;
  if (head == 1) return 5 * x;
  if (head == 2) return 110 * x;
  return token % 997 == 0 ? -infinity : 0.001f * x;
}

struct states {
  std::vector<float> s, z;
  index_t dim;

  explicit states(index_t d)
      : s(static_cast<std::size_t>(heads * d * d)), z(static_cast<std::size_t>(heads * d)), dim(d) {}
  heed::state_view<float> view() {
    return {heed::bhsd(s.data(), 1, heads, dim, dim), heed::contiguous(z.data(), {1, heads, dim})};
  }
};

// A stream's tokens, as one call of the kernel takes them
struct stream_rows {
  token_rows x;
  std::vector<float> gates, o;

  stream_rows(index_t dim, long count)
      : x(heads, dim, count), gates(static_cast<std::size_t>(count * heads)), o(x.q.size()) {}
  void fill(long first) {
    x.fill(first);
    for (std::size_t i = 0; i < gates.size(); ++i)
      gates[i] = log_gate_at(first + static_cast<long>(i) / heads, static_cast<index_t>(i) % heads);
  }
  heed::decay<float> decay(kind what) {
    if (what == kind::slopes) return heed::decay<float>(slopes);
    return heed::decay<float>(heed::tensor_view<const float, 3>(
        gates.data(), {1, heads, static_cast<index_t>(gates.size()) / heads}, {1, 1, heads}));
  }
  void decode(kind what, states& memory) {
    if (what == kind::linear)
      heed::linear::decode(x.view(x.q), x.view(x.k), x.view(x.v), memory.view(), x.view(o));
    else
      heed::lightning::decode(x.view(x.q), x.view(x.k), x.view(x.v), decay(what), memory.view(), x.view(o));
  }
  void forward(kind what, states& before, states& after) {
    if (what == kind::linear)
      heed::linear::forward(x.view(x.q), x.view(x.k), x.view(x.v), x.view(o),
                            {.mask = heed::causal(), .initial_state = before.view(), .final_state = after.view()});
    else
      heed::lightning::forward(x.view(x.q), x.view(x.k), x.view(x.v), decay(what), x.view(o),
                               {.initial_state = before.view(), .final_state = after.view()});
  }
};

// Some columns of the states in double: S = lambda S + phi(k) v, beside it the same sum of magnitudes, and a bound for
// what float may be off: 8 roundings of half a unit for each product and each sum, of magnitudes as large as they are.
class exact_states {
 public:
  exact_states(kind what, index_t dim)
      : what_(what), dim_(dim), sum_(static_cast<std::size_t>(heads * dim * columns)), size_(sum_), bound_(sum_) {}

  void step(long token, stream_rows& rows) {
    constexpr double unit = 8 * 0x1p-24, least = 2 * static_cast<double>(std::numeric_limits<float>::min());
    for (index_t h = 0, i = 0; h < heads; ++h) {
      const double slope = slopes[static_cast<std::size_t>(h)];
      const double lambda = what_ == kind::linear   ? 1
                            : what_ == kind::slopes ? std::exp(-slope)
                                                    : std::exp(static_cast<double>(log_gate_at(token, h)));
      // log(lambda) times the unit: where a rounding of the logarithm goes
      const double off = unit * (lambda > 0 ? 1 - std::log(lambda) : 1);
      for (index_t r = 0; r < dim_; ++r) {
        const double key = static_cast<double>(rows.x.k[static_cast<std::size_t>(h * dim_ + r)]);
        const double feature = what_ != kind::linear ? key : key > 0 ? key + 1 : std::exp(key);
        for (index_t c = 0; c < columns; ++c, ++i) {
          const auto at = static_cast<std::size_t>(i);
          const double product = feature * static_cast<double>(rows.x.v[static_cast<std::size_t>(h * dim_ + c)]);
          sum_[at] = lambda * sum_[at] + product;
          size_[at] = lambda * size_[at] + std::fabs(product);
          bound_[at] = lambda * bound_[at] + off * size_[at] + least;
        }
      }
    }
  }

  // The largest error of a state in units of the bound, and of a state that should differ from it by a few roundings
  double error(const states& x) const {
    return worst(x, [this](std::size_t i, double got) { return std::fabs(got - sum_[i]) / bound_[i]; });
  }
  double difference(const states& x, const states& other, double tolerance) const {
    return worst(x, [&, n = std::size_t{0}](std::size_t i, double got) mutable {
      const auto row = i / columns, column = i % columns;
      const auto at = row * static_cast<std::size_t>(dim_) + column;
      return std::fabs(got - static_cast<double>(other.s[at])) / (tolerance * size_[i] + 1e-37);
    });
  }

 private:
  static constexpr index_t columns = 4;

  template <class F> double worst(const states& x, F f) const {
    double most = 0;
    for (std::size_t i = 0; i < sum_.size(); ++i) {
      const double here = f(i, static_cast<double>(x.s[i / columns * static_cast<std::size_t>(dim_) + i % columns]));
      most = here <= most ? most : here;  // a NaN stays
      if (std::isnan(here)) return here;
    }
    return most;
  }

  kind what_;
  index_t dim_;
  std::vector<double> sum_, size_, bound_;
};

void check_states(const char* name, kind what, index_t dim) {
  states memory(dim), batched(dim), before(dim), after(dim);
  stream_rows now(dim, 1), tokens(dim, batch);
  exact_states exact(what, dim);
  std::vector<float> o;
  long wrong_batches = 0;
  step_watch watch(name);
  run_steps(
      [&](long token) {
        now.fill(token);
        now.decode(what, memory);
        exact.step(token, now);
        o.insert(o.end(), now.o.begin(), now.o.end());
        if ((token + 1) % batch != 0) return;
        tokens.fill(token + 1 - batch);
        before = batched;
        tokens.decode(what, batched);
        wrong_batches += same_bytes(tokens.o, o) ? 0 : 1;
        o.clear();
      },
      [&](long count) {
        INFO(name << " after " << count << " tokens");
        CHECK(wrong_batches == 0);
        CHECK(same_bytes(memory.s, batched.s));
        CHECK(same_bytes(memory.z, batched.z));
        CHECK(subnormals(memory.s) + subnormals(memory.z) + subnormals(now.o) == 0);
        CHECK(exact.error(memory) <= 1);
        tokens.forward(what, before, after);
        CHECK(subnormals(after.s) + subnormals(after.z) + subnormals(tokens.o) == 0);
        CHECK(exact.difference(after, memory, recurrent_tolerance<float>(batch, dim)) <= 1);
        if (what != kind::linear && size_at(count - 1) < 1)  // input is gone, and what decays fast with it
          CHECK(std::all_of(memory.s.begin() + 2 * dim * dim, memory.s.begin() + 3 * dim * dim,
                            [](float x) { return std::fabs(x) < 1e-30f; }));
        watch.check(count, [&] {
          for (int i = 0; i < 4; ++i) now.decode(what, memory);
        });
      });
}

}  // namespace

TEST_CASE("a million steps on the state of linear attention") {
  check_states("linear", kind::linear, soak_reports() ? 64 : 8);
}
TEST_CASE("a million steps on the state of lightning attention") {
  check_states("lightning with slopes", kind::slopes, soak_reports() ? 64 : 8);
}
TEST_CASE("a million steps on the state of lightning attention with gates") {
  check_states("lightning with gates", kind::gates, soak_reports() ? 64 : 8);
}
