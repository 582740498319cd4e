// SPDX-License-Identifier: BSD-3-Clause

// linear::decode beside the reference: any number of new tokens, every feature map, in place, without allocation.

#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/recurrent_case.hpp"

using namespace heed_test;

namespace {

using heed::feature;

template <class T> buffer<T> copy_of(const buffer<T>& from, buffer<T> to) {
  for (index_t a = 0; a < from.size()[0]; ++a)
    for (index_t b = 0; b < from.size()[1]; ++b)
      for (index_t c = 0; c < from.size()[2]; ++c)
        for (index_t d = 0; d < from.size()[3]; ++d) to(a, b, c, d) = from(a, b, c, d);
  return to;
}

// Decodes one copy, and holds the result against the reference's forward of another.
template <class T> void check_decode(const shape& s, heed::linear::options<T> how) {
  INFO(to_string(s));
  linear_case<T> x(s, how), expected(s, how);
  run_decode<T>(x.call(), x.memory(), how, {});
  expected.options.mask = expected.options.mask & heed::causal();
  expected.o = copy_of(x.o, buffer<T>::output(x.o.size()));
  expected.s1 = copy_of(x.s0, buffer<T>::output(x.s0.size()));
  expected.z1 = copy_of(x.z0, buffer<T>::output(x.z0.size()));
  expected.options.final_state = expected.after();
  const verdict result = compare(expected);
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK(x.o.canaries_alive());
}

}  // namespace

TEST_CASE("new tokens, one to many, every feature map") {
  std::size_t turn = 0;
  for (const feature map : {feature::identity, feature::elu_plus_one, feature::relu, feature::relu_squared,
                            feature::silu, feature::exp, feature::softmax, feature::taylor})
    for (const index_t n : {0, 1, 3, 4, 5, 40})
      for (const index_t d : {1, 20, 33}) {
        if (turn++ % few_thinning != 0) continue;
        const bool positive = map != feature::identity && map != feature::silu;
        const shape s{turn % 3 == 0 ? 2 : 1, 4, 2, n, n, d, turn % 2 == 0 ? 24 : 7};
        check_decode<float>(s, {.scale = 0.7, .feature = map, .normalize = positive});
        check_decode<double>(s, {.feature = map, .normalize = false});
      }
}

TEST_CASE("lengths of the new tokens") {
  const std::vector<std::int32_t> seen{2, 0, 3};
  check_decode<float>({3, 2, 1, 3, 3, 16, 20}, {.mask = heed::key_lengths(seen)});
  const std::vector<std::int32_t> many{20, 0, 9};
  check_decode<float>({3, 2, 1, 20, 20, 16, 20}, {.mask = heed::key_lengths(many)});
}

TEST_CASE("one token needs no allocation") {
  for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax}) {
    linear_case<float> x({2, 4, 2, 1, 1, 64, 48}, {.feature = map});
    CHECK(run_plan_decode<float>(x.call(), x.memory(), x.options, {}).workspace_bytes == 0);
    const long before = allocations;
    run_decode<float>(x.call(), x.memory(), x.options, {});
    const long after = allocations;
    CHECK(after == before);
  }
}
