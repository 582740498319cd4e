// SPDX-License-Identifier: BSD-3-Clause

// Bad masks and options: values, counts, shapes, offsets, and masks that do not join.

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_errors.hpp"

using namespace heed_test;

namespace {

constexpr shape good{2, 4, 2, 5, 7, 8, 6}, flat{1, 4, 2, 5, 7, 8, 6};
using numbers = std::vector<std::int32_t>;
using must = std::vector<std::string>;
using bend = std::function<void(call&)>;

void bad(const char* what, const must& words, const bend& f) { refused(good, what, words, f); }
void bad_packed(const char* what, const must& words, const numbers& q, const numbers& k, const heed::mask& more = {}) {
  refused(flat, what, words, [&](call& c) { c.options.mask = heed::packed(q, k) & more; });
}
void good_packed(const char* what, const numbers& q, const numbers& k) {
  accepted(flat, what, [&](call& c) { c.options.mask = heed::packed(q, k); });
}

const numbers one{3}, two{3, 4}, other{3, 5}, negative{3, -1}, beyond{8, 3}, three{1, 2, 3}, ids(40);
const std::vector<float> numbers_of_three(3), pair_numbers(300);
constexpr bool visible[300] = {}, elsewhere[300] = {};
using bias_view = heed::tensor_view<const float, 4>;
using keep_view = heed::tensor_view<const bool, 4>;
using ids_view = heed::tensor_view<const std::int32_t, 2>;

}  // namespace

TEST_CASE("windows: values and bounds") {
  bad("left", {"window", "left", "-2", "-1"}, [](call& c) { c.options.mask = heed::window(-2); });
  bad("right", {"window", "right", "-3", "-1"}, [](call& c) { c.options.mask = heed::window(1, -3); });
  bad("keep_first", {"window", "keep_first", "-1", "0"}, [](call& c) { c.options.mask = heed::window(1, 0, -1); });
  bad("left of a joined one", {"window", "left", "-5", "-1"},
      [](call& c) { c.options.mask = heed::window(3) & heed::causal() & heed::window(-5); });
}

TEST_CASE("lengths, prefixes and places: counts, values and bounds") {
  for (const bool prefix : {false, true}) {
    const char* const name = prefix ? "prefix_lm" : "key_lengths";
    const auto make = [prefix](const numbers& n) { return prefix ? heed::prefix_lm(n) : heed::key_lengths(n); };
    bad("too few", {name, "1", "2"}, [&](call& c) { c.options.mask = make(one); });
    bad("too many", {name, "3", "2"}, [&](call& c) { c.options.mask = make(three); });
    bad("none", {name, "0", "2"}, [&](call& c) { c.options.mask = make({}); });
    bad("negative", {name, "1", "-1", "0"}, [&](call& c) { c.options.mask = make(negative); });  // which, value, bound
    bad("beyond the keys", {name, "0", "8", "7"}, [&](call& c) { c.options.mask = make(beyond); });
    bad("beyond, behind another mask", {name, "0", "8", "7"},
        [&](call& c) { c.options.mask = heed::causal() & make(beyond) & heed::window(2); });
    accepted(good, "0 and all", [&](call& c) {
      static const numbers ends{0, 7};
      c.options.mask = make(ends);
    });
  }
  bad("too few places", {"first_place", "1", "2"}, [](call& c) { c.options.align = heed::first_place(one); });
  bad("too many places", {"first_place", "3", "2"}, [](call& c) { c.options.align = heed::first_place(three); });
  accepted(good, "any place", [](call& c) {
    static const numbers far{std::numeric_limits<std::int32_t>::min(), 2000000000};
    c.options.align = heed::first_place(far), c.options.mask = heed::causal();
  });
}

TEST_CASE("masks that do not join") {
  const auto even = [](const heed::position& at) { return at.key % 2 == 0; };
  static const numbers copy = ids, offsets{0, 5}, offsets2{0, 2, 5}, key_offsets{0, 7};
  const ids_view q(ids.data(), {2, 5}, {5, 1}), k(ids.data(), {2, 7}, {7, 1}), q2(copy.data(), {2, 5}, {5, 1});
  const keep_view a(visible, {2, 4, 5, 7}, {140, 35, 7, 1}), b(elsewhere, {2, 4, 5, 7}, {140, 35, 7, 1}),
      turned(visible, {1, 1, 5, 7}, {0, 0, 7, 1});
  const auto clash = [](const must& words, const heed::mask& x) {
    bad("two of a kind", words, [&](call& c) { c.options.mask = x; });
    bad("behind another", words, [&](call& c) { c.options.mask = x & heed::causal(); });
    bad("before another", words, [&](call& c) { c.options.mask = heed::causal() & x; });
  };
  clash({"two", "windows", "keep_first"}, heed::window(1, 0, 1) & heed::window(1, 0, 2));
  clash({"two", "different", "key_lengths"}, heed::key_lengths(two) & heed::key_lengths(other));
  clash({"two", "different", "key_lengths"}, heed::key_lengths(two) & heed::causal() & heed::key_lengths(other));
  clash({"two", "different", "prefix_lm"}, heed::prefix_lm(two) & heed::prefix_lm(other));
  clash({"two", "different", "packed"}, heed::packed(offsets, key_offsets) & heed::packed(offsets2, key_offsets));
  clash({"two", "different", "segments"}, heed::segments(q, k) & heed::segments(q2, k));
  clash({"two", "different", "keep"}, heed::keep(a) & heed::keep(b));
  clash({"two", "different", "keep"}, heed::keep(a) & heed::keep(turned));  // one memory, another shape
  clash({"two", "visible_if"}, heed::visible_if(even) & heed::visible_if(even));
}

TEST_CASE("packed: offsets") {
  good_packed("two sequences", {0, 2, 5}, {0, 3, 7});
  good_packed("empty ones", {0, 0, 0, 5, 5}, {0, 0, 4, 4, 7});
  good_packed("keys that nobody has", {0, 2, 5}, {0, 3, 6});
  bad_packed("queries not from 0", {"packed", "query_offsets", "0", "1"}, {1, 5}, {0, 7});
  bad_packed("keys not from 0", {"packed", "key_offsets", "0", "2"}, {0, 5}, {2, 7});
  bad_packed("negative", {"packed", "query_offsets", "0", "-1"}, {-1, 5}, {0, 7});
  bad_packed("queries that descend", {"packed", "query_offsets", "2", "3", "4", "5"}, {0, 4, 3, 5}, {0, 1, 2, 7});
  bad_packed("keys that descend", {"packed", "key_offsets", "2", "4", "6", "7"}, {0, 2, 3, 5}, {0, 6, 4, 7});
  bad_packed("keys negative in the middle", {"packed", "key_offsets", "1", "-3", "0"}, {0, 2, 5}, {0, -3, 7});
  bad_packed("queries beyond q", {"packed", "query_offsets", "1", "6", "5"}, {0, 6}, {0, 7});
  bad_packed("keys beyond k", {"packed", "key_offsets", "2", "8", "7"}, {0, 2, 5}, {0, 3, 8});
  bad_packed("keys far beyond k", {"packed", "key_offsets", "1", "2147483647", "7"}, {0, 5}, {0, 2147483647});
  bad_packed("queries that end early", {"packed", "query_offsets", "4", "5"}, {0, 2, 4}, {0, 3, 7});
  bad_packed("counts", {"packed", "query_offsets", "key_offsets", "3", "2"}, {0, 2, 5}, {0, 7});
  bad_packed("counts the other way", {"packed", "query_offsets", "key_offsets", "2", "4"}, {0, 5}, {0, 3, 4, 7});
  bad_packed("no query offsets", {"packed", "query_offsets", "empty", "1"}, {}, {0});
  bad_packed("no key offsets", {"packed", "key_offsets", "empty", "1"}, {0, 5}, {});
  bad_packed("0 alone with queries", {"packed", "query_offsets", "0", "5"}, {0}, {0});
  bad("a batch of 2", {"packed", "2", "1"}, [](call& c) {
    static const numbers q{0, 5}, k{0, 7};
    c.options.mask = heed::packed(q, k);
  });
}

TEST_CASE("packed: what is per sequence") {
  const numbers q{0, 2, 5}, k{0, 3, 7}, fits{3, 4}, long_first{4, 4}, single{1};
  bad_packed("lengths beyond the sequence", {"key_lengths", "0", "4", "3"}, q, k, heed::key_lengths(long_first));
  bad_packed("prefix beyond the sequence", {"prefix_lm", "0", "4", "3"}, q, k, heed::prefix_lm(long_first));
  bad_packed("lengths: count", {"key_lengths", "1", "2", "packed"}, q, k, heed::key_lengths(single));
  bad_packed("prefix: count", {"prefix_lm", "1", "2", "packed"}, q, k, heed::prefix_lm(single));
  refused(flat, "places: count", {"first_place", "1", "2", "packed"},
          [&](call& c) { c.options.mask = heed::packed(q, k), c.options.align = heed::first_place(single); });
  accepted(flat, "lengths of the sequences", [&](call& c) {
    c.options.mask = heed::packed(q, k) & heed::key_lengths(fits) & heed::prefix_lm(fits);
    c.options.align = heed::first_place(fits);
  });
}

TEST_CASE("numbers that are none") {
  static constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
  static const std::vector<float> nan_last{0, 0, 0, std::numeric_limits<float>::quiet_NaN()}, minus{1, 1, -0.5f, 1};
  bad("scale", {"scale", "NaN"}, [](call& c) { c.options.scale = nan_value; });
  bad("softcap", {"softcap", "nan", "0"}, [](call& c) { c.options.softcap = nan_value; });
  bad("softcap below 0", {"softcap", "-1", "0"}, [](call& c) { c.options.softcap = -1; });
  bad("slope", {"alibi_slopes", "nan", "0"}, [](call& c) { c.options.alibi_slopes = nan_value; });
  bad("slope below 0", {"alibi_slopes", "-0", "5", "0"}, [](call& c) { c.options.alibi_slopes = -0.5; });
  bad("one slope", {"alibi_slopes", "3", "nan"}, [](call& c) { c.options.alibi_slopes = nan_last; });
  bad("one slope below 0", {"alibi_slopes", "2", "-0", "5"}, [](call& c) { c.options.alibi_slopes = minus; });
  bad("sink", {"sink_logits", "nan"}, [](call& c) { c.options.sink_logits = nan_value; });
  bad("one sink", {"sink_logits", "3", "nan"}, [](call& c) { c.options.sink_logits = nan_last; });
}

TEST_CASE("counts of what is per head") {
  static const std::vector<double> none;
  bad("slopes", {"alibi_slopes", "3", "4"}, [](call& c) { c.options.alibi_slopes = numbers_of_three; });
  bad("sinks", {"sink_logits", "3", "4"}, [](call& c) { c.options.sink_logits = numbers_of_three; });
  bad("no slopes", {"alibi_slopes", "0", "4"}, [](call& c) { c.options.alibi_slopes = none; });
  refused({1, 2, 4, 5, 7, 8, 6}, "as many as q has, not o", {"sink_logits", "2", "4"},
          [](call& c) { c.options.sink_logits = std::span(numbers_of_three).first(2); });
}

TEST_CASE("shapes of bias, keep and segments: axis, extent and what it must be") {
  const float* const x = pair_numbers.data();
  bad("bias: batch", {"bias", "0", "3", "2"}, [&](call& c) {
    c.options.bias = bias_view(x, {3, 1, 1, 1}, {0, 0, 0, 0});
  });
  bad("bias: heads", {"bias", "1", "2", "4"}, [&](call& c) {
    c.options.bias = bias_view(x, {1, 2, 5, 7}, {0, 35, 7, 1});
  });
  bad("bias: queries", {"bias", "2", "4", "5"}, [&](call& c) {
    c.options.bias = bias_view(x, {1, 1, 4, 7}, {0, 0, 7, 1});
  });
  bad("bias: keys", {"bias", "3", "6", "7"}, [&](call& c) {
    c.options.bias = bias_view(x, {1, 1, 5, 6}, {0, 0, 7, 1});
  });
  bad("bias: no keys", {"bias", "3", "0", "7"}, [&](call& c) {
    c.options.bias = bias_view(x, {1, 1, 1, 0}, {0, 0, 0, 1});
  });
  bad("bias is o", {"bias", "o"}, [](call& c) {
    c.options.bias = bias_view(c.x.o.view().data(), {1, 1, 1, 7}, {0, 0, 0, 1});
  });
  bad("bias is lse", {"bias", "lse"}, [](call& c) {
    c.options.bias = bias_view(c.x.lse.view().data(), {1, 1, 1, 7}, {0, 0, 0, 1});
  });
  const auto kept = [](call& c, const keep_view& v) { c.options.mask = heed::keep(v); };
  bad("keep: batch", {"keep", "0", "3", "2"}, [&](call& c) { kept(c, {visible, {3, 1, 1, 1}, {0, 0, 0, 0}}); });
  bad("keep: heads", {"keep", "1", "3", "4"}, [&](call& c) { kept(c, {visible, {1, 3, 5, 7}, {0, 35, 7, 1}}); });
  bad("keep: queries", {"keep", "2", "3", "5"}, [&](call& c) { kept(c, {visible, {1, 1, 3, 7}, {0, 0, 7, 1}}); });
  bad("keep: keys", {"keep", "3", "8", "7"}, [&](call& c) { kept(c, {visible, {1, 1, 5, 8}, {0, 0, 8, 1}}); });
  bad("keep: null", {"keep", "null"}, [&](call& c) { kept(c, {nullptr, {1, 1, 5, 7}, {0, 0, 7, 1}}); });
  bad("keep: nothing", {"keep", "0", "2"}, [&](call& c) { kept(c, {}); });
  const std::int32_t* const id = ids.data();
  const auto divided = [](call& c, const ids_view& q, const ids_view& k) { c.options.mask = heed::segments(q, k); };
  const ids_view q(id, {2, 5}, {5, 1}), k(id, {2, 7}, {7, 1});
  bad("query ids: batch", {"segments", "query_ids", "0", "1", "2"}, [&](call& c) {
    divided(c, {id, {1, 5}, {5, 1}}, k);
  });
  bad("query ids: count", {"segments", "query_ids", "1", "4", "5"}, [&](call& c) {
    divided(c, {id, {2, 4}, {4, 1}}, k);
  });
  bad("query ids: one for all", {"segments", "query_ids", "1", "5"}, [&](call& c) {
    divided(c, {id, {2, 1}, {1, 1}}, k);
  });
  bad("key ids: batch", {"segments", "key_ids", "0", "3", "2"}, [&](call& c) { divided(c, q, {id, {3, 7}, {7, 1}}); });
  bad("key ids: count", {"segments", "key_ids", "1", "8", "7"}, [&](call& c) { divided(c, q, {id, {2, 8}, {8, 1}}); });
  bad("query ids: null", {"segments", "query_ids", "null"}, [&](call& c) { divided(c, {nullptr, {2, 5}, {5, 1}}, k); });
  bad("key ids: null", {"segments", "key_ids", "null"}, [&](call& c) { divided(c, q, {nullptr, {2, 7}, {7, 1}}); });
  accepted(good, "ids by broadcast()", [&](call& c) { divided(c, {id, {2, 5}, {0, 1}}, {id, {2, 7}, {0, 1}}); });
}

TEST_CASE("a null bias is no bias; arrays without elements may be null") {
  accepted(good, "bias", [](call& c) { c.options.bias = bias_view(nullptr, {1, 1, 3, 3}, {0, 0, 3, 1}); });
  accepted({0, 4, 2, 5, 7, 8, 6}, "no batches", [](call& c) {
    c.options.mask = heed::key_lengths({}) & heed::prefix_lm({}) &
                     heed::segments({nullptr, {0, 5}, {5, 1}}, {nullptr, {0, 7}, {7, 1}});
    c.options.align = heed::first_place({});
  });
  accepted({1, 4, 2, 0, 0, 8, 6}, "no tokens", [](call& c) {
    static const numbers zero{0}, nothing{0, 0};
    c.options.mask = heed::packed(zero, zero);
    c.options.align = heed::first_place({});
    CHECK(thrown_by([&] { run_forward<float>(c.q, c.k, c.v, c.o, c.options, {}); }).empty());
    c.options.mask = heed::packed(nothing, nothing) & heed::keep({nullptr, {1, 1, 0, 0}, {0, 0, 0, 1}});
    c.options.align = heed::first_place(zero);
  });
}
