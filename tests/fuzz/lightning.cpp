// SPDX-License-Identifier: BSD-3-Clause

// Fuzz targets of lightning::forward, backward and decode.

#include "fuzz/recurrent_gradients.hpp"
#include "fuzz/target.hpp"

namespace heed_test {

// Heads of the decay: one per query head, or one per key/value head; by slopes or by gates
struct decays {
  index_t heads;
  bool gated;
  std::int32_t cuts;
  std::vector<double> slopes;

  decays(bytes& in, const shape& s)
      : heads(in.flip() ? s.heads : s.kv_heads), gated(in.one_in(3)), cuts(in.of({0, 0, 3, 20})) {
    for (index_t h = 0; h < heads; ++h)
      slopes.push_back(in.of({0.02, 0.0, 0.5, 3.0, 1e-4, 30.0, 200.0, std::numeric_limits<double>::infinity()}));
    tell("decay of ", heads, " heads", gated ? ", gates" : ", slopes", gated && cuts > 0 ? " that cut" : "");
  }
};

template <class T> static void call(bytes& in, bool decode) {
  shape s = read_recurrent_shape(in, true);
  if (decode && !in.one_in(9)) s.queries = s.keys = s.queries % 5;
  const recurrent_mask mask(in, s, true);
  const decays decay(in, s);
  heed::lightning::options<T> how{.mask = mask.mask};
  set_scale_and_chunk(in, how);
  const layouts all = read_layouts(in), own = std::is_same_v<T, double> ? all : of_float(all);
  const auto compare_all = [](lightning_case<T>& x, const storage_rounding& rounding) { return compare(x, rounding); };
  if (decay.gated)
    check_recurrence<lightning_case<T>>(
        in, decode, all, [](auto&, auto&) {}, compare_all, s, decay.heads, decay.cuts, how, own, mask.sequences);
  else
    check_recurrence<lightning_case<T>>(
        in, decode, all, [](auto&, auto&) {}, compare_all, s, decay.slopes, how, own, mask.sequences);
}
void fuzz_lightning_forward(bytes& in) {
  in_a_type(in, [&](auto x) { call<decltype(x)>(in, false); });
}
void fuzz_lightning_decode(bytes& in) {
  in_a_type(in, [&](auto x) { call<decltype(x)>(in, true); });
}

template <class T> static void backward(bytes& in) {
  shape s = read_recurrent_shape(in, true);
  const recurrent_mask mask(in, s, true);
  const decays decay(in, s);
  heed::lightning::options<T> options{.mask = mask.mask};
  set_scale_and_chunk(in, options);
  const layouts how = read_layouts(in), of = read_gradient_layouts(in);
  using case_type = lightning_backward_case<T>;
  case_type x = decay.gated ? case_type(s, decay.heads, decay.cuts, options, how, mask.sequences, of)
                            : case_type(s, decay.slopes, options, how, mask.sequences, of);
  if (in.one_in(4)) x.asked.dslopes = {}, x.asked.dlog_gates = {}, tell("no gradient of the decay");
  check_gradients<T>(in, x, {&x.dq, &x.dk, &x.dv, &x.ds0, &x.dslopes, &x.dgates}, false,
                     [&] { return compare_gradients(x); });
}
void fuzz_lightning_backward(bytes& in) {
  in_a_type(in, [&](auto x) { backward<decltype(x)>(in); });
}

}  // namespace heed_test
