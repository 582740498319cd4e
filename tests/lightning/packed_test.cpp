// SPDX-License-Identifier: BSD-3-Clause

// Packed sequences and key_lengths: one state per sequence, the bits of calls one by one, padding that leaves no trace.

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

TEST_CASE("packed sequences, empty ones among them: the reference, and the bits of calls one by one") {
  const std::vector<std::int32_t> at{0, 0, 70, 71, 71, 201, 201};
  const index_t count = 6, n = 201;
  for (const bool gated : {false, true})
    for (const index_t chunk : {0, 5, 64}) {
      const shape s{1, 4, 2, n, n, 16, 20};
      const heed::lightning::options<float> how{.mask = heed::packed(at, at), .chunk = chunk};
      lightning_case<float> x = gated ? lightning_case<float>(s, 4, 9, how, {}, count)
                                      : lightning_case<float>(s, some_slopes(4), how, {}, count);
      check(x);
      for (index_t i = 0; i < count; ++i) {
        const index_t first = at[static_cast<std::size_t>(i)], length = at[static_cast<std::size_t>(i) + 1] - first;
        auto o = buffer<float>::output({1, 4, length, 20}), after = buffer<float>::output({1, 4, 16, 20});
        const auto part = [&](auto view) { return heed::slice(view, 2, first, length); };
        heed::lightning::options<float> alone{.chunk = chunk};
        alone.initial_state.s = heed::slice(x.s0.cview(), 0, i, 1), alone.final_state.s = after.view();
        const auto gates = part(x.gates.size()[2] > 0 ? x.gates.cview() : x.q.cview());
        const heed::decay<float> decay =
            gated ? heed::decay<float>(heed::tensor_view<const float, 3>(
                        gates.data(), {1, 4, length}, {gates.stride(0), gates.stride(1), gates.stride(2)}))
                  : x.decay();
        run_forward<float>({part(x.q.cview()), part(x.k.cview()), part(x.v.cview()), o.view()}, decay, alone, {});
        bool same = true;
        for (index_t h = 0; h < 4; ++h) {
          for (index_t j = 0; j < length; ++j)
            same = same && std::memcmp(&o(0, h, j), &x.o(0, h, first + j), 20 * sizeof(float)) == 0;
          for (index_t d = 0; d < 16; ++d)
            same = same && std::memcmp(&after(0, h, d), &x.s1(i, h, d), 20 * sizeof(float)) == 0;
        }
        CHECK(same);
      }
    }
}

TEST_CASE("key_lengths: padding neither enters nor fades the state, whatever it holds") {
  const std::vector<std::int32_t> seen{0, 33, 70};
  for (const bool gated : {false, true}) {
    const shape s{3, 2, 1, 70, 70, 16, 8};
    const heed::lightning::options<float> how{.mask = heed::key_lengths(seen)};
    lightning_case<float> x =
        gated ? lightning_case<float>(s, 2, 9, how) : lightning_case<float>(s, some_slopes(2), how);
    lightning_case<float> y =
        gated ? lightning_case<float>(s, 2, 9, how) : lightning_case<float>(s, some_slopes(2), how);
    check(x);
    for (index_t b = 0; b < 3; ++b)
      for (index_t i = seen[static_cast<std::size_t>(b)]; i < 70; ++i) {
        y.k(b, 0, i) = y.v(b, 0, i) = std::nanf("");
        if (gated) y.gates(b, 0, i) = y.gates(b, 1, i) = std::nanf("");
      }
    y.forward();
    CHECK((same_bits(x.o, y.o) && same_bits(x.s1, y.s1)));
  }
}

TEST_CASE("packed with key_lengths") {
  const std::vector<std::int32_t> at{0, 40, 40, 130}, seen{25, 0, 90};
  lightning_case<float> x({1, 2, 2, 130, 130, 8, 8}, some_slopes(2),
                          {.mask = heed::packed(at, at) & heed::key_lengths(seen)}, {}, 3);
  check(x);
}
