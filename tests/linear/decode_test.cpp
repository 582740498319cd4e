// SPDX-License-Identifier: BSD-3-Clause

// linear::decode beside the reference: any number of new tokens, every feature map, lengths, packed, in place; the same
// bits on any executor, in a workspace of the caller's, without allocation.

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"
#include "support/recurrent_case.hpp"
#include "support/recurrent_isolation.hpp"

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

// Decodes one copy, and holds the result against the reference's forward of another; count: of packed sequences; exact:
// the feature in double.
template <class T>
void check_decode(const shape& s, const heed::linear::options<T>& how, index_t count,
                  const heed::feature_map<double>& exact) {
  INFO(to_string(s));
  linear_case<T> x(s, how, {}, count), expected(s, how, {}, count);
  run_decode<T>(x.call(), x.memory(), how, {});
  expected.options.mask = expected.options.mask & heed::causal();
  expected.o = copy_of(x.o, buffer<T>::output(x.o.size()));
  expected.s1 = copy_of(x.s0, buffer<T>::output(x.s0.size()));
  expected.z1 = copy_of(x.z0, buffer<T>::output(x.z0.size()));
  expected.options.final_state = expected.after();
  const verdict result = compare(expected, exact);
  INFO(result.where);
  CHECK(result.worst <= 1);
  CHECK(x.o.canaries_alive());
}
template <class T> void check_decode(const shape& s, const heed::linear::options<T>& how, index_t count = -1) {
  check_decode<T>(s, how, count, heed::detail::parts(how.feature).built_in);
}

bool same_results(const linear_case<float>& x, const linear_case<float>& y) {
  return same_bits(x.o, y.o) && same_bits(x.s0, y.s0) && same_bits(x.z0, y.z0);
}

struct plain_executor {  // in reverse, without allocating
  index_t workers;
  index_t concurrency() const { return workers; }
  template <class F> void parallel_for(index_t n, F&& f) {
    for (index_t i = n; i-- > 0;) f(i);
  }
};

}  // namespace

TEST_CASE("new tokens, one to many, every feature map") {
  std::size_t turn = 0;
  for (const feature map : {feature::identity, feature::elu_plus_one, feature::relu, feature::relu_squared,
                            feature::silu, feature::exp, feature::softmax, feature::taylor})
    for (const index_t n : {0, 1, 3, 4, 5, 40})
      for (const index_t d : {1, 20, 33}) {
        if (turn++ % thinning != 0) continue;
        const bool positive = map != feature::identity && map != feature::silu;
        const shape s{turn % 3 == 0 ? 2 : 1, 4, 2, n, n, d, turn % 2 == 0 ? 24 : 7};
        check_decode<float>(s, {.scale = 0.7, .feature = map, .normalize = positive});
        check_decode<double>(s, {.feature = map, .normalize = false});
      }
}

TEST_CASE("the memory takes tokens that no query head is there to read") {
  for (const shape& s : {shape{2, 0, 2, 3, 3, 8, 9}, shape{1, 0, 1, 2, 2, 3, 4}}) {
    check_decode<float>(s, {});
    check_decode<double>(s, {.feature = feature::taylor});
  }
}

TEST_CASE("lengths of the new tokens") {
  const std::vector<std::int32_t> seen{2, 0, 3};
  check_decode<float>({3, 2, 1, 3, 3, 16, 20}, {.mask = heed::key_lengths(seen)});
  const std::vector<std::int32_t> many{20, 0, 9};
  check_decode<float>({3, 2, 1, 20, 20, 16, 20}, {.mask = heed::key_lengths(many)});
}

TEST_CASE("functions of the caller's") {
  const auto check_function = [](auto number, index_t n) {
    using T = decltype(number);
    const T shift = T(0.5);
    const heed::feature_map<T> map([shift](T x) { return x > 0 ? x + shift : shift; }, [](T) { return T(1); });
    const heed::feature_map<double> exact([](double x) { return x > 0 ? x + 0.5 : 0.5; }, [](double) { return 1.0; });
    check_decode<T>({2, 2, 1, n, n, 20, 12}, {.feature = map}, -1, exact);
  };
  for (const index_t n : {1, 3, 20}) check_function(0.0f, n), check_function(0.0, n);
}

TEST_CASE("packed sequences, empty ones among them, with and without lengths") {
  const std::vector<std::int32_t> few{0, 1, 1, 5, 5, 7}, both{0, 3, 3, 43, 44, 44}, seen_few{1, 0, 2, 0, 0},
      seen_both{0, 0, 33, 1, 0};
  for (const feature map : {feature::elu_plus_one, feature::taylor}) {
    for (const auto* at : {&few, &both}) {
      const index_t n = at->back();
      const shape s{1, 4, 2, n, n, 8, 12};
      const heed::mask packed = heed::packed(*at, *at);
      check_decode<float>(s, {.mask = packed, .feature = map}, 5);
      check_decode<float>(
          s,
          {.mask = packed & heed::key_lengths(at == &few ? seen_few : seen_both), .feature = map, .normalize = false},
          5);
    }
  }
  linear_case<float> x({1, 4, 2, 44, 44, 8, 12}, {.mask = heed::packed(both, both)}, {}, 5), before(x.s, {}, {}, 5);
  run_decode<float>(x.call(), x.memory(), x.options, {});
  for (const index_t i : {1, 4}) {  // memories of empty sequences keep their bits
    bool same = true;
    for (index_t h = 0; h < 2; ++h)
      for (index_t f = 0; f < 8; ++f) {
        same = same && x.z0(i, h, f) == before.z0(i, h, f);
        for (index_t c = 0; c < 12; ++c) same = same && x.s0(i, h, f, c) == before.s0(i, h, f, c);
      }
    CHECK(same);
  }
}

TEST_CASE("the same bits for 1 to 5 workers, one token or many, packed or not") {
  const std::vector<std::int32_t> at{0, 1, 1, 4, 24, 25};
  for (const feature map : {feature::elu_plus_one, feature::taylor})
    for (const index_t n : {1, 4, 5, 25}) {
      const bool packed = n == 25;
      if (map == feature::taylor && (n == 4 || n == 5)) continue;
      const shape s{packed ? 1 : 2, 4, 2, n, n, map == feature::taylor ? 24 : 20, 12};  // 601 features need scratch
      const heed::linear::options<float> how{.mask = packed ? heed::packed(at, at) : heed::mask(), .feature = map};
      const index_t count = packed ? 5 : -1;
      linear_case<float> serial(s, how, {}, count);
      run_decode<float>(serial.call(), serial.memory(), how, {});
      for (index_t workers = 1; workers <= 5; ++workers) {
        INFO(to_string(s) << ", " << workers << " workers");
        test_executor executor(workers, order::shuffled, true);
        linear_case<float> x(s, how, {}, count);
        CHECK(run_plan_decode<float>(x.call(), x.memory(), how, {.executor = executor}).tasks == (packed ? 10 : 4));
        run_decode<float>(x.call(), x.memory(), how, {.executor = executor});
        CHECK(same_results(x, serial));
        CHECK_FALSE(executor.asked_too_much());
        CHECK((executor.phases() == 1 || workers == 1));
      }
    }
}

TEST_CASE("more than 512 features need scratch: no allocation in a workspace of the caller's") {
  const auto bytes = [](const shape& s, feature map) {
    linear_case<float> x(s, {.feature = map});
    return run_plan_decode<float>(x.call(), x.memory(), x.options, {}).workspace_bytes;
  };
  CHECK(bytes({1, 1, 1, 1, 1, 22, 4}, feature::taylor) == 0);  // 507
  CHECK(bytes({1, 1, 1, 1, 1, 512, 4}, feature::elu_plus_one) == 0);
  CHECK(bytes({1, 1, 1, 4, 4, 600, 4}, feature::identity) == 0);  // as they are
  struct {
    shape s;
    feature map;
  } const calls[] = {{{2, 4, 2, 1, 1, 23, 12}, feature::taylor},  // 553
                     {{1, 2, 1, 3, 3, 513, 8}, feature::elu_plus_one}};
  for (const auto& [s, map] : calls)
    for (const index_t workers : {1, 3}) {
      INFO(to_string(s) << ", " << workers << " workers");
      plain_executor executor{workers};
      linear_case<float> x(s, {.feature = map}), y(s, {.feature = map}), refused(s, {.feature = map});
      run_decode<float>(y.call(), y.memory(), y.options, {});
      const std::size_t needed =
          run_plan_decode<float>(x.call(), x.memory(), x.options, {.executor = executor}).workspace_bytes;
      REQUIRE(needed > 0);
      std::vector<std::byte> memory(needed + 200, std::byte{0xff});
      const heed::context ctx{.executor = executor, .workspace = {memory.data() + 65, needed}};
      const long before = allocations;
      run_decode<float>(x.call(), x.memory(), x.options, ctx);
      const long after = allocations;
      CHECK(after == before);
      CHECK(same_results(x, y));
      const auto untouched = [](std::byte b) { return b == std::byte{0xff}; };
      CHECK(std::all_of(memory.begin(), memory.begin() + 65, untouched));
      CHECK(std::all_of(memory.begin() + 65 + static_cast<std::ptrdiff_t>(needed), memory.end(), untouched));

      const heed::context small{.executor = executor, .workspace = {memory.data(), needed - 1}};
      CHECK_FALSE(run_plan_decode<float>(x.call(), x.memory(), x.options, small).ok());
      const std::uint64_t hash = refused.s0.hash();
      CHECK_THROWS_AS(run_decode<float>(refused.call(), refused.memory(), refused.options, small), heed::error);
      CHECK((refused.o.untouched() && refused.s0.hash() == hash));
    }
}

TEST_CASE("any number of tokens needs no allocation") {
  for (const feature map : {feature::identity, feature::elu_plus_one, feature::softmax})
    for (const index_t n : {1, 40}) {
      linear_case<float> x({2, 4, 2, n, n, 64, 48}, {.feature = map});
      CHECK(run_plan_decode<float>(x.call(), x.memory(), x.options, {}).workspace_bytes == 0);
      const long before = allocations;
      run_decode<float>(x.call(), x.memory(), x.options, {});
      const long after = allocations;
      CHECK(after == before);
    }
}

TEST_CASE("one number that is not finite reaches its own batch entry, heads, column and memory") {
  const auto run = [](linear_case<float>& x) { run_decode<float>(x.call(), x.memory(), x.options, {}); };
  for (const index_t n : {3, 20})
    for (const feature map : {feature::elu_plus_one, feature::softmax}) {
      INFO(n << " tokens");
      const auto make = [&] { return linear_case<float>({2, 4, 2, n, n, 8, 12}, {.feature = map}); };
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()})
        check_isolation({.at = n / 2, .bad = bad, .in_place = true, .elementwise = map != feature::softmax}, make, run);
    }
}

TEST_CASE("a scale below 1 keeps products in range that would leave it") {
  for (const index_t d : {16, 600})  // with and without scratch
    for (const feature map : {feature::elu_plus_one, feature::identity}) {
      const heed::linear::options<float> how{
          .mask = heed::causal(), .scale = 1e-10, .feature = map, .normalize = map != feature::identity};
      linear_case<float> x({1, 2, 1, 5, 5, d, 20}, how), y(x.s, how);
      for (auto* one : {&x, &y})
        for (auto* tensor : {&one->q, &one->k}) tensor->each([](float& a) { a = 2e19f * std::abs(a); });
      y.options.final_state = y.after();
      heed_test::check(y);
      run_decode<float>(x.call(), x.memory(), how, {});
      std::swap(y.o, x.o);
      const verdict result = compare(y);
      INFO(result.where);
      CHECK(result.worst <= 1);
    }
}
