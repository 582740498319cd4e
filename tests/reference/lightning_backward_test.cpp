// SPDX-License-Identifier: BSD-3-Clause

// The gradients of the reference of lightning attention beside central differences of its forward, and golden ones.

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/golden_recurrent_backward.hpp"
#include "support/lightning_reference_case.hpp"

using namespace heed_test;

namespace {

using case_of = lightning_reference_case;
using options = heed::lightning::options<double>;
using gradients = heed::lightning::gradients<double>;
namespace reference = heed::reference::lightning;

constexpr double inf = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("every mask, decay and state: all gradients are central differences") {
  const std::vector<std::int32_t> seen{3, 0}, whole{4, 4}, at{0, 2, 2, 6}, each{1, 0, 4};
  for (const bool gated : {false, true})
    for (const shape& s : {shape{2, 4, 2, 4, 4, 3, 2}, shape{2, 2, 1, 4, 4, 1, 3}, shape{2, 1, 1, 4, 4, 2, 2}})
      for (const index_t states : {s.heads, s.kv_heads})
        for (const int given : {0, 1, 2, 3}) {
          const auto check_masked = [&](const shape& size, const options& how, index_t count = -1) {
            case_of x(size, states, gated, how, count);
            x.has_before = (given & 1) != 0, x.has_after = (given & 2) != 0;
            check(x);
          };
          for (const heed::mask& mask : {heed::mask{}, heed::key_lengths(seen), heed::key_lengths(whole)})
            check_masked(s, {.mask = mask, .scale = -0.4});
          shape joined = s;
          joined.batch = 1, joined.queries = joined.keys = 6;
          for (const heed::mask& mask : {heed::packed(at, at), heed::packed(at, at) & heed::key_lengths(each)})
            check_masked(joined, {.mask = mask, .scale = 1.5}, 3);
        }
}

TEST_CASE("slopes of 0 and infinity, gates that cut") {
  case_of x({1, 3, 1, 5, 5, 2, 2}, 3, false);
  x.numbers(0, 0, 0, 0) = 0, x.numbers(0, 0, 0, 1) = inf, x.numbers(0, 0, 0, 2) = 900;  // exp(-900) is 0 as well
  check(x);
  CHECK((x.dnumbers(0, 0, 0, 0) != 0 && x.dnumbers(0, 0, 0, 1) == 0 && x.dnumbers(0, 0, 0, 2) == 0));
  CHECK_FALSE(all_zero(x.ds0));
  for (index_t d = 0; d < 2; ++d) CHECK((x.ds0(0, 1, d, 0) == 0 && x.ds0(0, 1, d, 1) == 0));
  for (const index_t cut : {0, 2, 4}) {
    case_of y({1, 2, 1, 5, 5, 2, 2}, 2, true);
    y.numbers(0, 1, cut) = -inf, y.numbers(0, 0, 1) = 0;
    check(y);
    CHECK(y.dnumbers(0, 1, cut) == 0);
    for (index_t d = 0; d < 2; ++d) CHECK(((y.ds0(0, 1, d, 0) == 0) == (cut == 0) && y.ds0(0, 0, d, 0) != 0));
  }
}

TEST_CASE("lightning: a wrong gradient differs from the differences") {
  for (const bool gated : {false, true}) {
    case_of x({1, 1, 1, 4, 4, 2, 2}, 1, gated);
    x.backward();
    CHECK(x.differences().worst <= 1);
    for (const buffer<double>* const dx : {&x.dq, &x.dk, &x.dv, &x.ds0, &x.dnumbers}) {
      (*dx)(0, 0, dx->size()[2] - 1, 0) *= 1 + 1e-6;
      CHECK(x.differences().worst > 1);
      (*dx)(0, 0, dx->size()[2] - 1, 0) /= 1 + 1e-6;
    }
    CHECK(x.differences().worst <= 1);
    x.numbers.each([](double& a) { a *= 1.0001; });
    CHECK(x.differences().worst > 1);
  }
}

TEST_CASE("golden gradients of lightning attention") {
  const golden_file file("lightning");
  int count = 0;
  for (const std::string& name : file.cases()) {
    if (name == "slope_tables") continue;
    golden_backward<double, golden_lightning<double>> x(file, name);
    gradients asked;
    x.ask(asked);
    reference::backward(x.q.cview<4>(), x.k.cview<4>(), x.v.cview<4>(), x.decay, x.dout.cview<4>(), asked, x.options);
    std::string of;
    const double worst = x.error(of);
    INFO(name << ": " << of << " off by " << worst << " of what is allowed");
    CHECK(worst <= 1);
    count += x.count;
  }
  CHECK(count == 17 * 3 + 13 + 8 + 4);
}
