// SPDX-License-Identifier: BSD-3-Clause

// What plan_forward says for every option and mask: the path, why, and the workspace; and that the call keeps to it.

#include <algorithm>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr shape many{2, 4, 2, 40, 90, 12, 9}, few{2, 4, 2, 2, 90, 12, 9}, alone{1, 1, 1, 1, 300, 8, 8};
constexpr shape shapes[] = {many, few, alone};

bool says(const heed::plan& plan, const std::string& word) {
  return std::string(plan.why.data()).find(word) != std::string::npos;
}
const char* word_of(part_kind kind) {
  switch (kind) {
    case part_kind::softcap:
      return "softcap";
    case part_kind::alibi:
      return "alibi_slopes";
    case part_kind::bias:
      return "bias";
    case part_kind::score:
      return "score";
    case part_kind::sink:
      return "sink_logits";
    case part_kind::align:  // no word of its own
      break;
    case part_kind::causal:
      return "causal";
    case part_kind::window:
      return "window";
    case part_kind::key_lengths:
      return "key_lengths";
    case part_kind::prefix:
      return "prefix_lm";
    case part_kind::segments:
      return "segments";
    case part_kind::keep:
      return "keep";
    case part_kind::user:
      return "visible_if";
  }
  return "";
}
constexpr const char* all_words[] = {"softcap",     "alibi_slopes", "bias",   "scores changed",
                                     "sink_logits", "causal",       "window", "key_lengths",
                                     "prefix_lm",   "segments",     "keep",   "visible_if"};

struct plain_executor {  // one after the other, without allocating
  heed::index_t workers;
  heed::index_t concurrency() const { return workers; }
  template <class F> void parallel_for(heed::index_t n, F&& f) {
    for (heed::index_t i = 0; i < n; ++i) f(i);
  }
};

// A call of any length on memory that nobody reads.
heed::plan plan_of(index_t n, index_t m, const heed::softmax::options<float>& how, const heed::context& where = {}) {
  static float memory[4];
  const auto view = [](float* p, index_t heads, index_t rows) {
    return heed::tensor_view<float, 4>(p, {1, heads, rows, 32}, {heads * rows * 32, rows * 32, 32, 1});
  };
  return run_plan<float>(view(memory, 4, n), view(memory + 1, 2, m), view(memory + 2, 2, m), view(memory + 3, 4, n),
                         how, where);
}

}  // namespace

TEST_CASE("why names the option of a call, and no other") {
  for (const shape& s : shapes) {
    const option_parts<float> parts(s);
    const softmax_case<float> plain(s);
    for (const char* word : all_words) CHECK_FALSE(says(plain.plan(), word));
    for (const auto& part : parts.all) {
      INFO(to_string(s) << ", " << part.name);
      const heed::plan plan = softmax_case<float>(s, parts.of({&part}, parts.whole())).plan();
      INFO(plan.path << ": " << plan.why.data());
      REQUIRE(plan.ok());
      const std::string word = word_of(part.kind);
      if (part.kind == part_kind::align)
        CHECK(std::string(plan.why.data()) == plain.plan().why.data());
      else
        CHECK((!word.empty() && says(plan, word)));
      for (const char* other : all_words)
        if (word != other && !(part.kind <= part_kind::score && std::string(other) == "scores changed"))
          CHECK_FALSE(says(plan, other));
      CHECK(std::string(plan.path) == plain.plan().path);  // options change what happens in the tiles, not the driver
    }
  }
}

TEST_CASE("why names the options of every pair") {
  const option_parts<float> parts(many);
  for (const auto& first : parts.all)
    for (const auto& second : parts.all) {
      if (first.kind == second.kind) continue;
      const heed::plan plan = softmax_case<float>(many, parts.of({&first, &second}, parts.whole())).plan();
      INFO(first.name << ", " << second.name << ": " << plan.why.data());
      const auto named = [&](part_kind kind) { return kind == part_kind::align || says(plan, word_of(kind)); };
      CHECK((named(first.kind) && named(second.kind)));
    }
}

TEST_CASE("why holds everything even where everything is asked for") {
  packing p;
  p.add(30, 40), p.add(2, 20);
  const shape s{1, 4, 2, 32, 60, 8, 8};
  const option_parts<float> parts(s, &p);
  std::vector<const option_parts<float>::part*> chosen;
  for (const auto& part : parts.all)
    if (chosen.empty() || chosen.back()->kind != part.kind) chosen.push_back(&part);
  heed::softmax::options<float> how = parts.of(chosen, parts.whole());
  how.mask = how.mask & heed::packed(p.queries, p.keys);
  const heed::plan plan = softmax_case<float>(s, how).plan();
  INFO(plan.why.data());
  REQUIRE(plan.ok());
  CHECK(says(plan, "packed"));
  for (const char* word : all_words) {
    INFO(word);
    CHECK(says(plan, word));
  }
}

TEST_CASE("the path follows the rows that share keys, and why says how many") {
  const auto plan = [](const shape& s, const heed::mask& mask = {}) {
    return softmax_case<float>(s, {.mask = mask}).plan();
  };
  CHECK(std::string(plan({1, 1, 1, 1, 100, 8, 8}).path) == "softmax: head dim in lanes");
  CHECK(std::string(plan({1, 1, 1, 100, 100, 8, 8}).path) == "softmax: queries in lanes");
  CHECK(says(plan({1, 6, 2, 1, 100, 8, 8}), "3 rows"));
  CHECK(says(plan({1, 6, 2, 50, 100, 8, 8}), "150 rows"));
  CHECK(says(plan({1, 1, 1, 0, 100, 8, 8}), "no rows"));
  // from this many rows on, whether queries or heads make them
  const std::string why = plan({1, 1, 1, 1, 100, 8, 8}).why.data();
  const index_t from = std::stol(why.substr(why.find_last_of(' ')));
  CHECK(std::string(plan({1, 1, 1, from, 100, 8, 8}).path) == "softmax: queries in lanes");
  CHECK(std::string(plan({1, 1, 1, from - 1, 100, 8, 8}).path) == "softmax: head dim in lanes");
  CHECK(std::string(plan({1, from, 1, 1, 100, 8, 8}).path) == "softmax: queries in lanes");
  CHECK(std::string(plan({1, from - 1, 1, 1, 100, 8, 8}).path) == "softmax: head dim in lanes");

  packing short_ones, long_ones, both;
  short_ones.add(1, 10), short_ones.add(2, 10);
  long_ones.add(40, 10), long_ones.add(0, 5), long_ones.add(50, 10);
  both.add(1, 10), both.add(40, 40);
  const auto packed = [&](const packing& p) {
    return plan({1, 1, 1, p.queries.back(), p.keys.back(), 8, 8}, heed::packed(p.queries, p.keys));
  };
  CHECK(std::string(packed(short_ones).path) == "softmax: head dim in lanes");
  CHECK(std::string(packed(long_ones).path) == "softmax: queries in lanes");
  CHECK(std::string(packed(both).path) == "softmax: queries in lanes, head dim in lanes for short sequences");
  for (const packing* p : {&short_ones, &long_ones, &both}) CHECK(says(packed(*p), "packed"));
}

TEST_CASE("a refused call has a problem and no reason") {
  const heed::plan plan = plan_of(10, 10, {.softcap = -1});
  CHECK_FALSE(plan.ok());
  CHECK(std::string(plan.why.data()).empty());
}

TEST_CASE("workspace: the same for any number of queries and keys, under every option") {
  const std::vector<std::int32_t> one{1};
  std::vector<float> bias(1);
  const heed::softmax::options<float> list[] = {{},
                                                {.softcap = 3},
                                                {.alibi_slopes = 0.5},
                                                {.bias = {bias.data(), {1, 1, 1, 1}, {0, 0, 0, 0}}},
                                                {.score = [](float x, const heed::position&) { return x; }},
                                                {.sink_logits = 1},
                                                {.mask = heed::causal() & heed::window(100, 0, 4)},
                                                {.mask = heed::key_lengths(one) & heed::prefix_lm(one)},
                                                {.mask = heed::visible_if([](const heed::position&) { return true; })},
                                                {.mask = heed::causal(),
                                                 .softcap = 3,
                                                 .alibi_slopes = 0.5,
                                                 .bias = {bias.data(), {1, 1, 1, 1}, {0, 0, 0, 0}},
                                                 .score = [](float x, const heed::position&) { return x; },
                                                 .sink_logits = 1}};
  for (const auto& how : list)
    for (const index_t workers : {1, 3}) {
      plain_executor executor{workers};
      const auto bytes = [&](index_t n, index_t m) {
        return plan_of(n, m, how, {.executor = executor}).workspace_bytes;
      };
      CHECK(bytes(2000, 2000) > 0);
      CHECK(bytes(2000, 2000) == bytes(300000, 700000));
      CHECK(bytes(2, 2000) == bytes(2, 700000));
      CHECK(bytes(2000, 2000) <= static_cast<std::size_t>(workers) * plan_of(2000, 2000, how).workspace_bytes);
    }
  // packed: of the longest sequence at most
  const auto packed = [&](int count) {
    packing p;
    for (int i = 0; i < count; ++i) p.add(i % 3 == 0 ? 1 : 100, 50);
    return plan_of(p.queries.back(), p.keys.back(), {.mask = heed::packed(p.queries, p.keys)}).workspace_bytes;
  };
  CHECK(packed(3) > 0);
  CHECK(packed(3) == packed(3000));
}

// In the planned workspace nothing is allocated and the bits are those of any other call; a byte less is refused.
TEST_CASE("every option and mask: no allocation in the planned workspace, one without") {
  for (const shape& s : shapes) {
    const option_parts<float> parts(s);
    for (const auto& part : parts.all)
      for (const index_t workers : {1, 2}) {
        INFO(to_string(s) << ", " << part.name);
        plain_executor executor{workers};
        const auto how = parts.of({&part}, parts.whole());
        softmax_case<float> x(s, how), y(s, how);
        const std::size_t bytes = x.plan({.executor = executor}).workspace_bytes;
        std::vector<std::byte> memory(bytes, std::byte{0xff});
        const heed::context where{.executor = executor, .workspace = memory};
        const long first = allocations;
        x.forward(where);
        const long second = allocations;
        y.forward();
        const long third = allocations;
        CHECK(second == first);
        CHECK(third - second == 1);
        CHECK((same_bits(x.o, y.o) && same_bits(x.lse, y.lse)));
        if (bytes == 0) continue;
        const heed::context less{.executor = executor, .workspace = {memory.data(), bytes - 1}};
        CHECK_FALSE(x.plan(less).ok());
        CHECK_THROWS_AS(x.forward(less), heed::error);
      }
  }
}

TEST_CASE("packed: no allocation in the planned workspace") {
  packing p;
  p.add(30, 40), p.add(2, 20), p.add(0, 3), p.add(100, 70);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 8, 8};
  const option_parts<float> parts(s, &p);
  for (const auto& part : parts.all) {
    INFO(part.name);
    heed::softmax::options<float> how = parts.of({&part}, parts.whole());
    how.mask = how.mask & heed::packed(p.queries, p.keys);
    softmax_case<float> x(s, how), y(s, how);
    std::vector<std::byte> memory(x.plan().workspace_bytes);
    const long before = allocations;
    x.forward({.workspace = memory});
    const long after = allocations;
    CHECK(after == before);
    y.forward();
    CHECK((same_bits(x.o, y.o) && same_bits(x.lse, y.lse)));
  }
}
