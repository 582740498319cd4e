// SPDX-License-Identifier: BSD-3-Clause

// Sweeps exp2, exp and tanh over the whole range and holds them to the bounds stated in simd/math.hpp.

#include "heed/simd/math.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using heed::index_t;
namespace simd = heed::simd;

template <class T> using wider = std::conditional_t<std::is_same_v<T, float>, double, long double>;
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T> constexpr T nan_of = std::numeric_limits<T>::quiet_NaN();
template <class T> constexpr int lowest_exponent = std::numeric_limits<T>::min_exponent - 1;  // of a normal number
template <class T> constexpr int highest_exponent = std::numeric_limits<T>::max_exponent;

// Distance from the truth in units in the last place of T at the truth
template <class T> double ulps(T got, wider<T> want) {
  if (want == 0) return got == T(0) ? 0 : static_cast<double>(infinity<T>);
  const int exponent = std::max(std::ilogb(want), lowest_exponent<T>);
  return static_cast<double>(
      std::fabs(std::scalbn(wider<T>(got) - want, std::numeric_limits<T>::digits - 1 - exponent)));
}

#if defined(HEED_AVX512) || defined(HEED_AVX2)
constexpr bool fused = true;  // simd::fma rounds once
#else
constexpr bool fused = false;
#endif

enum class function { exp2, exp2_nonpositive, exp, tanh };

template <class T> simd::batch<T> apply(function f, simd::batch<T> x) {
  switch (f) {
    case function::exp2:
      return simd::exp2(x);
    case function::exp2_nonpositive:
      return simd::exp2_nonpositive(x);
    case function::exp:
      return simd::exp(x);
    case function::tanh:
      return simd::tanh(x);
  }
  return x;
}
template <class T> T apply_one(function f, T x) {
  T lanes[simd::width<T>];
  simd::store(lanes, apply(f, simd::batch<T>(x)));
  for (const T y : lanes)
    if (std::memcmp(&y, lanes, sizeof(T)) != 0) return nan_of<T>;
  return lanes[0];
}

// Checks lanes of x against long functions; keeps the largest error.
template <class T> class sweep {
 public:
  explicit sweep(function f) : f_(f) {}

  void add(T x) {
    if (f_ == function::exp2_nonpositive && x > 0) return;
    in_[count_++] = x;
    if (count_ == simd::width<T>) flush();
  }
  void flush() {
    if (count_ == 0) return;
    for (index_t i = count_; i < simd::width<T>; ++i) in_[i] = in_[0];
    simd::store(out_, apply(f_, simd::load(in_)));
    for (index_t i = 0; i < count_; ++i) check(in_[i], out_[i]);
    count_ = 0;
  }
  double worst() const { return worst_; }
  T worst_at() const { return worst_at_; }
  index_t wrong() const { return wrong_; }
  T wrong_at() const { return wrong_at_; }

 private:
  void check(T x, T got) {
    const wider<T> wide = x;
    if (f_ == function::tanh) return measure(x, got, std::tanh(wide));
    // where the results change their kind, in log 2; within `slack` of a border both kinds are right
    const wider<T> power = f_ == function::exp ? wide * wider<T>(1.4426950408889634073599246810018921L) : wide;
    const wider<T> slack = f_ == function::exp ? std::fabs(power) * std::numeric_limits<T>::epsilon() : 0;
    const wider<T> low = wider<T>(lowest_exponent<T>) - wider<T>(0.5),
                   high = wider<T>(highest_exponent<T>) - wider<T>(0.5);
    if (power < low - slack) return expect(x, got == T(0));
    if (power > high + slack) return expect(x, got == infinity<T>);
    if (power <= low + slack && got == T(0)) return;
    if (power >= high - slack && got == infinity<T>) return;
    measure(x, got, f_ == function::exp ? std::exp(wide) : std::exp2(wide));
  }
  void expect(T x, bool right) {
    if (!right) ++wrong_, wrong_at_ = x;
  }
  void measure(T x, T got, wider<T> want) {
    // A result between 2^-126.5 and 2^-126 is subnormal or flushed.
    if (f_ != function::tanh && std::fabs(want) < std::numeric_limits<T>::min() && got == T(0)) return;
    const double error = ulps<T>(got, want);
    if (!(error <= worst_)) worst_ = error, worst_at_ = x;
  }

  function f_;
  T in_[simd::width<T>] = {}, out_[simd::width<T>] = {};
  index_t count_ = 0, wrong_ = 0;
  double worst_ = 0;
  T worst_at_ = 0, wrong_at_ = 0;
};

template <class T> void hold(sweep<T>& s, const char* name, double bound) {
  s.flush();
  std::printf("%-18s %-6s worst %.3f ulp at %.9g (bound %.2f)\n", name, simd::is_float<T> ? "float" : "double",
              s.worst(), static_cast<double>(s.worst_at()), bound);
  INFO(name << ": worst at " << s.worst_at() << ", wrong at " << s.wrong_at());
  CHECK(s.wrong() == 0);
  CHECK(s.worst() <= bound);
}

void sweep_floats(function f, const char* name, double bound) {
  sweep<float> s(f);
  for (std::uint64_t bits = 0; bits < (std::uint64_t(1) << 32); bits += 1009) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!std::isnan(x)) s.add(x);
  }
  // most patterns are tiny or huge numbers: closely where the results move
  for (index_t i = -2000000; i <= 2000000; ++i) s.add(static_cast<float>(static_cast<double>(i) * 6.5001e-5));
  hold(s, name, bound);
}

void sweep_doubles(function f, const char* name, double bound) {
  sweep<double> s(f);
  heed_test::random_numbers random(7);
  for (int i = 0; i < 400000; ++i) s.add((random.uniform() * 2 - 1) * 1030);
  for (int i = 0; i < 400000; ++i) s.add((random.uniform() * 2 - 1) * 2);
  for (double x = 1e-300; x < 1e300; x *= 1.0037 + 1e-3 * random.uniform()) s.add(x), s.add(-x);
  for (int n = -1022; n <= 1024; ++n)
    for (const double rest : {-0.5, -0.49999999999999, 0.0, 0.49999999999999, 0.5}) s.add(n + rest);
  hold(s, name, bound);
}

}  // namespace

TEST_CASE("functions of float stay within the stated bounds", "[math]") {
  sweep_floats(function::exp2, "exp2", fused ? 0.95 : 1.2);
  sweep_floats(function::exp2_nonpositive, "exp2_nonpositive", fused ? 0.95 : 1.2);
  sweep_floats(function::exp, "exp", fused ? 1.0 : 1.3);
  sweep_floats(function::tanh, "tanh", 1.6);
}

TEST_CASE("functions of double stay within the stated bounds", "[math]") {
  sweep_doubles(function::exp2, "exp2", fused ? 1.0 : 1.3);
  sweep_doubles(function::exp2_nonpositive, "exp2_nonpositive", fused ? 1.0 : 1.3);
  sweep_doubles(function::exp, "exp", fused ? 0.9 : 1.2);
  sweep_doubles(function::tanh, "tanh", 1.6);
}

TEMPLATE_TEST_CASE("special values", "[math]", float, double) {
  using T = TestType;
  const T huge = std::numeric_limits<T>::max(), bottom = T(lowest_exponent<T>) - T(0.5), top = T(highest_exponent<T>);
  for (const function f : {function::exp2, function::exp2_nonpositive, function::exp}) {
    CAPTURE(static_cast<int>(f));
    CHECK(apply_one<T>(f, T(0)) == T(1));
    CHECK(apply_one<T>(f, T(-0.0)) == T(1));
    CHECK(apply_one<T>(f, -infinity<T>) == T(0));
    CHECK(apply_one<T>(f, -huge) == T(0));
    CHECK_FALSE(std::signbit(apply_one<T>(f, -infinity<T>)));
    CHECK(std::isnan(apply_one<T>(f, nan_of<T>)));
    if (f == function::exp2_nonpositive) continue;
    CHECK(apply_one<T>(f, infinity<T>) == infinity<T>);
    CHECK(apply_one<T>(f, huge) == infinity<T>);
  }
  for (const function f : {function::exp2, function::exp2_nonpositive}) {
    CHECK(apply_one<T>(f, std::nextafter(bottom, -infinity<T>)) == T(0));
    CHECK(apply_one<T>(f, bottom - T(0.25)) == T(0));
    for (int n = lowest_exponent<T>; n <= 0; ++n) CHECK(apply_one<T>(f, T(n)) == std::ldexp(T(1), n));
  }
  CHECK(apply_one<T>(function::exp2, top) == infinity<T>);
  CHECK(apply_one<T>(function::exp2, top - T(1)) == std::ldexp(T(1), highest_exponent<T> - 1));
  CHECK(apply_one<T>(function::tanh, infinity<T>) == T(1));
  CHECK(apply_one<T>(function::tanh, -infinity<T>) == T(-1));
  CHECK(apply_one<T>(function::tanh, huge) == T(1));
  CHECK(apply_one<T>(function::tanh, T(0)) == T(0));
  CHECK(std::isnan(apply_one<T>(function::tanh, nan_of<T>)));
}
