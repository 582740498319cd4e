// SPDX-License-Identifier: BSD-3-Clause

// What options own: small arrays that are handed over as temporaries; and what they say of larger ones.

#include <Eigen/Core>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/decay.hpp"
#include "heed/core/error.hpp"
#include "heed/core/kv_cache.hpp"
#include "heed/core/state.hpp"
#include "heed/lightning/options.hpp"
#include "heed/linear/options.hpp"
#include "heed/local_linear/options.hpp"
#include "heed/mixture_of_head/options.hpp"
#include "heed/slopes.hpp"
#include "heed/softmax/options.hpp"
#include "support/catch.hpp"
#include "support/messages.hpp"
#include "support/owned.hpp"

namespace {

using heed::decay;
using heed::index_t;
using heed::per_head;
using heed::per_sequence;
using heed_test::kept;
using ints = std::vector<std::int32_t>;
using doubles = std::vector<double>;

static_assert(std::is_trivially_copyable_v<per_sequence> && std::is_trivially_copyable_v<heed::mask>);
static_assert(std::is_trivially_copyable_v<decay<float>> && sizeof(heed::mask) <= 2500 && sizeof(per_head) <= 1100);

template <class X> constexpr bool is_per_sequence = std::is_convertible_v<X, per_sequence>;
static_assert(is_per_sequence<ints> && is_per_sequence<ints&> && is_per_sequence<const ints> &&
              is_per_sequence<std::span<std::int32_t>> && is_per_sequence<std::array<std::int32_t, 3>> &&
              is_per_sequence<std::int32_t (&)[3]> && is_per_sequence<heed::lengths>);
static_assert(!is_per_sequence<std::vector<int64_t>&> && !is_per_sequence<std::vector<float>> &&
              !is_per_sequence<int> && !is_per_sequence<std::int32_t*>);
static_assert(!std::is_convertible_v<per_sequence, heed::lengths> &&  // what it owns would be gone
              !std::is_convertible_v<const per_sequence, heed::lengths> &&
              std::is_convertible_v<per_sequence&, heed::lengths>);
static_assert(!std::is_convertible_v<per_head, heed::detail::per_head_view> &&
              !std::is_convertible_v<const per_head, heed::detail::per_head_view> &&
              std::is_convertible_v<const per_head&, heed::detail::per_head_view>);

ints integers(const per_sequence& x) { return {x.data(), x.data() + x.size()}; }
doubles read(const per_head& x) {
  doubles all;
  for (index_t h = 0; h < x.size(); ++h) all.push_back(x.at(h));
  return all;
}
ints counting(index_t count) {
  ints all;
  for (index_t i = 0; i < count; ++i) all.push_back(static_cast<std::int32_t>(i));
  return all;
}

TEST_CASE("per_sequence: named arrays and spans are viewed, temporaries and braces are copied") {
  ints named{1, 2};
  const per_sequence viewed = named, spanned = std::span<const std::int32_t>(named), moved = ints(named);
  named[1] = 9;
  CHECK(viewed.data() == named.data());
  CHECK(integers(spanned) == ints{1, 9});
  CHECK(integers(moved) == ints{1, 2});
  CHECK(integers(std::move(named)) == ints{1, 9});
  const per_sequence braces = {4, 2, 7};
  CHECK(integers(braces) == ints{4, 2, 7});
  CHECK((braces.back() == 7 && braces[1] == 2 && !braces.empty()));
  CHECK(integers(std::array<std::int32_t, 2>{5, 6}) == ints{5, 6});
  CHECK((per_sequence().empty() && per_sequence(ints()).empty()));
  const heed::cache_lengths of_cache = braces;
  CHECK((of_cache.size() == 3 && of_cache.data()[2] == 7 && !of_cache.per_head()));
}

TEST_CASE("errors are made of a text in either form") {
  const std::string text = "a text";
  CHECK(std::string(heed::error(text).what()) == heed::error("a text").what());
  CHECK(std::string(heed::not_converged(text).what()) == heed::not_converged("a text").what());
}

TEST_CASE("per_sequence and per_head: what is too much to own is an error with both numbers") {
  using heed_test::thrown_by;
  const auto lengths = [](index_t count) { static_cast<void>(heed::key_lengths(counting(count))); };
  CHECK(thrown_by([&] { lengths(129); }) == "");
  CHECK(thrown_by([&] { lengths(130); }) ==
        "lengths, offsets or places: a temporary has 130 entries, at most 129 are kept: pass an array that lives until "
        "the call");
  const auto packed = [](index_t sequences) {
    const heed::mask m = heed::packed(counting(sequences + 1), counting(sequences + 1)) &
                         heed::key_lengths(counting(sequences)) & heed::prefix_lm(counting(sequences));
    const auto& parts = heed::detail::parts(m);
    return parts.key_offsets.back() == sequences && parts.prefix.back() == sequences - 1;
  };
  CHECK(packed(128));
  CHECK(thrown_by([&] { packed(129); }).find("130 entries") != std::string::npos);
  const ints named = counting(1000);
  CHECK(per_sequence(named).size() == 1000);

  CHECK(thrown_by([] { per_head(heed::alibi_slopes(128)); }) == "");
  CHECK(thrown_by([] { per_head(heed::alibi_slopes(129)); }) ==
        "numbers per head: a temporary has 129, at most 128 are kept: pass an array that lives until the call");
  CHECK(thrown_by([] { decay<float>(heed::alibi_slopes(200)); }).find("200") != std::string::npos);
  const doubles many = heed::alibi_slopes(200);
  CHECK(per_head(many).at(199) == many[199]);
}

TEST_CASE("per_head: temporaries are copied, views of named numbers are not") {
  doubles named = heed::alibi_slopes(3);
  const per_head viewed = named, owned = std::move(named);
  CHECK(viewed.data() == named.data());
  CHECK(read(owned) == heed::alibi_slopes(3));
  CHECK(read(std::vector<float>{0.5f, -1}) == doubles{0.5, -1});
  CHECK(read(std::array<double, 2>{2, 3}) == doubles{2, 3});
  const Eigen::VectorXd sums = Eigen::VectorXd::Ones(2);
  CHECK(read(*kept([&] { return per_head(Eigen::Ref<const Eigen::VectorXd>(2 * sums)); })) == doubles{2, 2});
  CHECK((per_head(doubles()).set() && per_head(doubles()).one_each() && per_head(doubles()).size() == 0));
  per_head copy = owned;
  copy = per_head(std::vector<float>{7});
  CHECK(read(copy) == doubles{7});
  copy = 2;
  CHECK((!copy.one_each() && copy.at(5) == 2));
}

template <class Options> void check_scores() {
  const auto x = kept([] {
    return Options{.mask = heed::key_lengths(ints{4, 2}) & heed::prefix_lm({1, 0}) &
                           heed::packed({0, 3, 7}, ints{0, 4, 6}),
                   .align = heed::first_place(ints{8, 9}),
                   .alibi_slopes = heed::alibi_slopes(8)};
  });
  const auto& parts = heed::detail::parts(x->mask);
  CHECK(integers(parts.lengths) == ints{4, 2});
  CHECK(integers(parts.prefix) == ints{1, 0});
  CHECK(integers(parts.query_offsets) == ints{0, 3, 7});
  CHECK(integers(parts.key_offsets) == ints{0, 4, 6});
  CHECK(integers(heed::detail::parts(x->align).first) == ints{8, 9});
  CHECK(read(x->alibi_slopes) == heed::alibi_slopes(8));
}

TEST_CASE("options of every kernel outlive the temporaries that they were made of") {
  check_scores<heed::softmax::options<>>();
  check_scores<heed::softmax::options<double>>();
  check_scores<heed::mixture_of_head::options<>>();
  check_scores<heed::local_linear::options<>>();
  const auto linear = kept([] {
    return heed::linear::options<>{.mask = heed::causal() & heed::key_lengths(ints{4, 2}),
                                   .align = heed::first_place({8, 9})};
  });
  CHECK(integers(heed::detail::parts(linear->mask).lengths) == ints{4, 2});
  CHECK(integers(heed::detail::parts(linear->align).first) == ints{8, 9});
  const auto lightning = kept([] { return heed::lightning::options<>{.mask = heed::packed(ints{0, 3}, {0, 3})}; });
  CHECK(integers(heed::detail::parts(lightning->mask).key_offsets) == ints{0, 3});
  const auto sinks = kept([] { return heed::softmax::options<>{.sink_logits = std::vector<float>{1, 2, 3}}; });
  CHECK(read(sinks->sink_logits) == doubles{1, 2, 3});
  const auto fading = kept([] { return decay<float>(heed::alibi_slopes(8)); });
  CHECK(read(heed::detail::parts(*fading).slopes) == heed::alibi_slopes(8));
}

TEST_CASE("& joins lengths that are owned by their numbers") {
  const heed::mask same = heed::key_lengths({4, 2}) & heed::key_lengths(ints{4, 2});
  CHECK(heed::detail::parts(same).conflict == nullptr);
  CHECK(integers(heed::detail::parts(same).lengths) == ints{4, 2});
  CHECK(heed::detail::parts(heed::key_lengths({4, 2}) & heed::key_lengths({4, 3})).conflict != nullptr);
}

// Tensors are never owned.
template <class G> constexpr bool are_gates = requires(G&& g) { heed::log_gates(static_cast<G&&>(g)); };
static_assert(are_gates<std::vector<float>&> && are_gates<std::span<float>>);
static_assert(!heed::detail::borrowable<std::vector<float>>);  // then log_gates says what is wrong
template <class X> constexpr bool is_bias = std::is_convertible_v<X, heed::tensor_view<const float, 4>>;
static_assert(is_bias<std::vector<float>&> && !is_bias<std::vector<float>> && !is_bias<float*>);
static_assert(!std::is_convertible_v<heed::state<float>, heed::state_view<float>> &&
              !std::is_convertible_v<heed::state<float>, heed::state_view<const float>>);

}  // namespace
