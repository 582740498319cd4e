// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of convert, and of quantize and dequantize.

#include "heed/convert.hpp"

#include <cmath>
#include <cstring>
#include <string>

#include "fuzz/numbers.hpp"
#include "fuzz/place.hpp"
#include "fuzz/target.hpp"
#include "fuzz/tensors.hpp"
#include "fuzz/views.hpp"

namespace heed_test {

template <class T> static double as_double(T x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return static_cast<double>(static_cast<float>(x));
}

// Any bits: numbers of every size, infinities and NaN
template <class T> static void fill_bits(bytes& in, const buffer<T>& x) {
  random_numbers random(in.byte() + 1u);
  const bool of_one_size = in.flip();
  x.each([&](T& a) {
    if (of_one_size) return static_cast<void>(a = T(static_cast<float>(random.normal())));
    unsigned char raw[sizeof(T)];
    for (unsigned char& each : raw) each = static_cast<unsigned char>(random.below(256));
    std::memcpy(&a, raw, sizeof(T));
  });
}

// A number rounded to T is one of the two that x lies between, the nearer one; what is subnormal in float may be 0.
template <class From, class To> static void check_number(From from, To to) {
  const double x = as_double(from), y = as_double(to);
  if (std::isnan(x)) return demand(std::isnan(y), "a NaN is lost");
  const double least = std::is_same_v<From, double> && std::is_same_v<To, double> ? 0x1p-1022 : 0x1p-126;
  if (std::abs(x) < least && !(std::is_same_v<From, heed::f16_t> && std::abs(x) > 0))
    return demand(y == 0 && std::signbit(x) == std::signbit(y), "a subnormal number is not 0 of its sign");
  demand(std::signbit(x) == std::signbit(y), "a sign is lost");
  if (std::isinf(x)) return demand(std::isinf(y), "an infinity is lost");
  const int digits = std::is_same_v<To, heed::bf16_t>  ? 8
                     : std::is_same_v<To, heed::f16_t> ? 11
                     : std::is_same_v<To, float>       ? 24
                                                       : 53;
  const double most = std::is_same_v<To, heed::f16_t>    ? 65520
                      : std::is_same_v<To, heed::bf16_t> ? 0x1.ffp127
                      : std::is_same_v<To, float>        ? 0x1.ffffffp127
                                                         : std::numeric_limits<double>::infinity();
  if (std::abs(x) >= most) return demand(std::isinf(y), "a number beyond the range is finite");
  const double ulp = std::ldexp(1.0, std::ilogb(x) - digits + 1),
               tiny = std::is_same_v<To, heed::f16_t> ? 0x1p-24 : 0x1p-126;
  demand(std::abs(y - x) <= std::max(ulp / 2, std::is_same_v<To, heed::f16_t> ? tiny / 2
                                              : std::abs(x) < 0x1p-125        ? tiny
                                                                              : 0.0),
         "a number is not rounded to the nearest: " + std::to_string(x) + " to " + std::to_string(y));
}

template <class From, class To> static void convert(bytes& in) {
  const extents n{in.below(3), in.below(4), in.tokens(), in.dim()};
  const auto from = buffer<From>::input(n, read_layout(in, true), in.below(5));
  const auto to = buffer<To>::output(n, read_layout(in, true), in.below(5));
  fill_bits(in, from), from.poison_padding();
  tell("convert ", n[0], " ", n[1], " ", n[2], " ", n[3], ", ", sizeof(From), " to ", sizeof(To), " bytes");
  auto x = from.cview();
  auto y = to.view();
  set_absurd_strides(in, x), set_absurd_strides(in, y);
  std::string wrong;
  if (in.one_in(12)) {
    if (in.flip())
      break_view(in, x, false, false), wrong = "from";
    else
      break_view(in, y, true, false), wrong = "to";
    tell("wrong ", wrong);
  }
  place at(in);
  const std::uint64_t before = from.hash();
  const bool ran = run_at(
      at, wrong, [&](const heed::context& ctx) { return heed::plan_convert(x, y, ctx); },
      [&](const heed::context& ctx) { heed::convert(x, y, ctx); }, [&] { return to.hash(); });
  demand(from.hash() == before && to.canaries_alive(), "convert changes its input, or writes outside its output");
  if (!ran) return;
  for (index_t i = 0; i < n[0] * n[1] * n[2] * n[3]; ++i) {
    const index_t b = i / (n[1] * n[2] * n[3]), h = i / (n[2] * n[3]) % n[1], r = i / n[3] % n[2], c = i % n[3];
    check_number(from(b, h, r, c), to(b, h, r, c));
  }
}
template <class From> static void convert_from(bytes& in) {
  const index_t to = in.below(4);
  if (to == 0) convert<From, float>(in);
  if (to == 1) convert<From, heed::bf16_t>(in);
  if (to == 2) convert<From, heed::f16_t>(in);
  if (to == 3) convert<From, double>(in);
}
void fuzz_convert(bytes& in) {
  const index_t from = in.below(4);
  if (from == 0) convert_from<float>(in);
  if (from == 1) convert_from<heed::bf16_t>(in);
  if (from == 2) convert_from<heed::f16_t>(in);
  if (from == 3) convert_from<double>(in);
}

// Quantizes rows and reads them back.
template <class T> static void quantize(bytes& in) {
  const extents n{in.below(3), in.below(4), in.tokens(), in.dim()}, rows{n[0], n[1], n[2], 1};
  const auto x = buffer<T>::input(n, read_layout(in, false)), back = buffer<T>::output(n, read_layout(in, true));
  const auto q = buffer<std::int8_t>::output(n, read_layout(in, true));
  const auto scale = buffer<float>::output(rows, read_layout(in, true));
  random_numbers random(in.byte() + 1u);
  x.each([&](T& a) { a = T(static_cast<float>(random.normal())); });
  const auto [b, h, r, d] = n;
  const double size = in.of({1.0, 1.0, 1e-37, 1e-40, 1e30, 3e38, 0.0});
  x.each([&](T& a) { a = T(static_cast<float>(as_double(a) * size)); });
  for (index_t i = in.below(4); i > 0 && b * h * r > 0; --i)
    x(in.below(b), in.below(h), in.below(r), in.below(d)) =
        T(in.of({std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                 -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::max(), -0.0f, 1e-45f}));
  tell("quantize ", b, " ", h, " ", r, " ", d, ", size ", size);
  auto from = x.cview();
  auto q_view = q.view();
  auto scale_view = scale.view3();
  set_absurd_strides(in, from), set_absurd_strides(in, q_view), set_absurd_strides(in, scale_view);
  std::string wrong;
  if (in.one_in(12)) {
    const index_t kind = in.below(3);
    if (kind == 0) break_view(in, from, false, false), wrong = "x";
    if (kind == 1) break_view(in, q_view, true), wrong = "q8";
    if (kind == 2) break_view(in, scale_view, true), wrong = "scale";
    tell("wrong ", wrong);
  }
  place at(in);
  std::string error;
  const std::uint64_t before = q.hash() ^ 3 * scale.hash();
  error = thrown_by([&] { heed::quantize(from, q_view, scale_view, at.plain()); });
  demand(error.empty() == wrong.empty(), "quantize with a wrong '" + wrong + "' says '" + error + "'");
  demand(q.canaries_alive() && scale.canaries_alive(), "quantize writes outside its outputs");
  if (!wrong.empty())
    return demand(has_word(error, wrong) && before == (q.hash() ^ 3 * scale.hash()),
                  "the error of a wrong " + wrong + " does not name it, or something is written: " + error);
  heed::dequantize(q.cview(), heed::tensor_view<const float, 3>(scale.view3()), back.view(), at.plain());
  demand(back.canaries_alive(), "dequantize writes outside its output");
  for (index_t i = 0; i < b * h * r; ++i) {
    const index_t ib = i / (h * r), ih = i / r % h, ir = i % r;
    double largest = 0;
    bool nan = false, inf = false;
    for (index_t c = 0; c < d; ++c) {
      const double a = as_double(x(ib, ih, ir, c));
      nan = nan || std::isnan(a), inf = inf || std::isinf(a), largest = std::max(largest, std::abs(a));
    }
    const double s = static_cast<double>(scale(ib, ih, ir));
    if (nan) {
      demand(std::isnan(s), "a row with a NaN has a scale that is a number");
      continue;
    }
    if (inf) demand(std::isinf(s), "a row with an infinity has a finite scale");
    for (index_t c = 0; c < d && !inf; ++c) {
      const double a = as_double(x(ib, ih, ir, c)), y = as_double(back(ib, ih, ir, c));
      const double rounding = std::is_same_v<T, float> ? 0x1p-22 : std::is_same_v<T, heed::f16_t> ? 0x1p-10 : 0x1p-7;
      const double allowed = s * (0.5 + 127 * 0x1p-22) + largest * rounding + 128 * 0x1p-126;
      const bool beyond = std::is_same_v<T, heed::f16_t> && std::abs(a) > 65000;
      demand(beyond || std::abs(y - a) <= allowed,
             "a number comes back as another: " + std::to_string(a) + " as " + std::to_string(y));
    }
  }
}
void fuzz_quantize(bytes& in) {
  const index_t type = in.below(3);
  if (type == 0) quantize<float>(in);
  if (type == 1) quantize<heed::bf16_t>(in);
  if (type == 2) quantize<heed::f16_t>(in);
}

}  // namespace heed_test
