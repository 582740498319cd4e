// SPDX-License-Identifier: BSD-3-Clause

// Every option moves the output, to where the reference has it.

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

constexpr shape sizes[] = {{2, 4, 2, 25, 60, 20, 12}, {2, 2, 1, 2, 60, 9, 7}, {1, 2, 4, 130, 140, 16, 16}};

struct named_options {
  std::string name;
  heed::softmax::options<float> options;
};

struct option_set {
  explicit option_set(const shape& s) {
    random_numbers random(4);
    const auto fill = [&](std::vector<float>& x, index_t count, double size) {
      for (index_t i = 0; i < count; ++i) x.push_back(static_cast<float>(size * random.normal()));
    };
    const index_t heads = s.out_heads();
    fill(bias, heads * s.queries * s.keys, 1);
    fill(sinks, heads, 1);
    for (index_t h = 0; h < heads; ++h) slopes.push_back(0.05f * static_cast<float>(h + 1));
    ends.assign(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.keys / 2));
    prefix.assign(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.keys - 1));
    first.assign(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(3));
    for (index_t i = 0; i <= s.batch * (s.queries + s.keys); ++i) ids.push_back(random.below(2));
    visible = std::make_unique<bool[]>(static_cast<std::size_t>(s.queries * s.keys));
    for (index_t i = 0; i < s.queries * s.keys; ++i) visible[static_cast<std::size_t>(i)] = random.below(3) != 0;
    using heed::causal;
    all = {
        {"mask causal", {.mask = causal()}},
        {"mask window", {.mask = heed::window(7, 3)}},
        {"mask key_lengths", {.mask = heed::key_lengths(ends)}},
        {"mask prefix_lm", {.mask = heed::prefix_lm(prefix)}},
        {"mask segments",
         {.mask = heed::segments({ids.data(), {s.batch, s.queries}, {s.queries, 1}},
                                 {ids.data() + 1, {s.batch, s.keys}, {s.keys, 1}})}},
        {"mask keep", {.mask = heed::keep({visible.get(), {1, 1, s.queries, s.keys}, {0, 0, s.keys, 1}})}},
        {"mask visible_if", {.mask = heed::visible_if([](const heed::position& at) { return at.key % 3 != 1; })}},
        {"align top_left", {.mask = causal(), .align = heed::top_left}},
        {"align first_place", {.mask = causal(), .align = heed::first_place(first)}},
        {"scale", {.scale = 0.7}},
        {"scale 0", {.scale = 0}},
        {"scale negative", {.scale = -0.4}},
        {"softcap", {.softcap = 1.5}},
        {"alibi_slopes", {.alibi_slopes = slopes}},
        {"alibi_slopes, one number", {.alibi_slopes = 0.1}},
        {"bias", {.bias = {bias.data(), {1, heads, s.queries, s.keys}, {0, s.queries * s.keys, s.keys, 1}}}},
        {"bias per key", {.bias = {bias.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1}}}},
        {"score",
         {.score = [](float x, const heed::position& at) { return 0.5f * x - 0.01f * static_cast<float>(at.key); }}},
        {"sink_logits", {.sink_logits = sinks}},
    };
  }
  option_set(const option_set&) = delete;
  option_set& operator=(const option_set&) = delete;

  std::vector<float> bias, sinks, slopes;
  std::vector<std::int32_t> ends, prefix, first, ids;
  std::unique_ptr<bool[]> visible;
  std::vector<named_options> all;
};

}  // namespace

TEST_CASE("each option moves the output to where the reference has it") {
  for (const shape& s : sizes) {
    softmax_case<float> plain(s), plain_causal(s, {.mask = heed::causal()});
    plain.forward();
    plain_causal.forward();
    const option_set set(s);
    for (const auto& [name, options] : set.all) {
      INFO(name);
      softmax_case<float> x(s, options);
      check(x);
      CHECK_FALSE(same_bits(x.o, plain.o));
      if (name != "mask causal" && s.queries > 2) CHECK_FALSE(same_bits(x.o, plain_causal.o));
    }
  }
}

TEST_CASE("the default scale is 1/sqrt(D)") {
  for (const shape& s : sizes) {
    softmax_case<float> x(s), y(s, {.scale = 1 / std::sqrt(static_cast<double>(s.dim))});
    x.forward();
    y.forward();
    CHECK(same_bits(x.o, y.o));
  }
}

TEST_CASE("scale 0 weighs all visible keys the same") {
  for (const shape& s : sizes) {
    softmax_case<float> x(s, {.scale = 0});
    check(x);
    CHECK(x.lse(0, 0, 0) == Approx(std::log(s.keys)));
  }
}

TEST_CASE("lse is written where it is supplied and changes nothing else") {
  for (const shape& s : sizes)
    for (const layout how : {layout::bhsd, layout::bshd, layout::padded_rows, layout::reversed_rows}) {
      softmax_case<float> with(s, {.mask = heed::causal()}, {.lse = how}), without(s, {.mask = heed::causal()});
      check(with);
      without.options.lse = {};
      check(without);
      CHECK(same_bits(with.o, without.o));
      CHECK(without.lse.untouched());
    }
}
