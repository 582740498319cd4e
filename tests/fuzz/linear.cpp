// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of linear::forward, backward and decode.

#include "fuzz/recurrent_gradients.hpp"
#include "fuzz/target.hpp"

namespace heed_test {

// A feature map in T, and the same in double for the reference
template <class T> struct feature_maps {
  heed::feature_map<T> map = heed::feature::elu_plus_one;
  heed::feature_map<double> exact = heed::feature::elu_plus_one;

  feature_maps(bytes& in, shape& s) {
    using heed::feature;
    const auto built_in = in.of({feature::elu_plus_one, feature::identity, feature::relu, feature::relu_squared,
                                 feature::silu, feature::exp, feature::softmax, feature::taylor});
    if (in.one_in(9)) {
      map = {[](T x) { return x > 0 ? x + T(0.5) : T(0.5); }, [](T x) { return x > 0 ? T(1) : T(0); }};
      exact = {[](double x) { return x > 0 ? x + 0.5 : 0.5; }, [](double x) { return x > 0 ? 1.0 : 0.0; }};
      tell("feature map of the caller's");
      return;
    }
    map = built_in, exact = built_in;
    if (built_in == feature::taylor && s.dim > 4 && !in.one_in(20)) s.dim = 1 + s.dim % 6;
    tell("feature ", static_cast<int>(built_in), ", D ", s.dim);
  }
};

template <class T>
static heed::linear::options<T> read_options(bytes& in, const recurrent_mask& mask, const feature_maps<T>& features) {
  heed::linear::options<T> how{.mask = mask.mask, .align = mask.align, .feature = features.map};
  set_scale_and_chunk(in, how);
  how.normalize = !in.one_in(3), how.eps = in.of({1e-6, 0.0, 0.5, 40.0});
  tell("normalize ", how.normalize, ", eps ", how.eps);
  return how;
}

template <class T> static void call(bytes& in, bool decode) {
  shape s = read_recurrent_shape(in, decode);
  if (decode && !in.one_in(9)) s.queries = s.keys = s.queries % 5;
  const recurrent_mask mask(in, s, decode);
  const feature_maps<T> features(in, s);
  const heed::linear::options<T> how = read_options(in, mask, features);
  const layouts all = read_layouts(in), own = std::is_same_v<T, double> ? all : of_float(all);
  check_recurrence<linear_case<T>>(
      in, decode, all, [](auto&, auto&) {},
      [&](linear_case<T>& x, const storage_rounding& rounding) {
        if (decode) x.options.mask = x.options.mask & heed::causal();
        return compare(x, features.exact, rounding);
      },
      s, how, own, mask.sequences);
}
void fuzz_linear_forward(bytes& in) {
  in_a_type(in, [&](auto x) { call<decltype(x)>(in, false); });
}
void fuzz_linear_decode(bytes& in) {
  in_a_type(in, [&](auto x) { call<decltype(x)>(in, true); });
}

template <class T> static void backward(bytes& in) {
  shape s = read_recurrent_shape(in, false);
  const recurrent_mask mask(in, s, false);
  const feature_maps<T> features(in, s);
  const heed::linear::options<T> options = read_options(in, mask, features);
  const layouts how = read_layouts(in), of = read_gradient_layouts(in);
  linear_backward_case<T> x(s, options, how, mask.sequences, of);
  check_gradients<T>(in, x, {&x.dq, &x.dk, &x.dv, &x.ds0, &x.dz0}, options.normalize,
                     [&] { return compare_gradients(x, features.exact); });
}
void fuzz_linear_backward(bytes& in) {
  in_a_type(in, [&](auto x) { backward<decltype(x)>(in); });
}

}  // namespace heed_test
