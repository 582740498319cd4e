// SPDX-License-Identifier: BSD-3-Clause

// Calls that cannot be made: forward throws before it writes, with the text that plan_forward has; those of softmax
// among them.

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/mixture_case.hpp"
#include "support/softmax_errors.hpp"
#include "support/vectors.hpp"

using namespace heed_test;

namespace {

constexpr shape good{2, 4, 2, 7, 9, 8, 6};

struct mixture_call : call {
  mixture_case<float> owner;
  heads_in<float> gates = owner.gates.view3();
  mixture_call() : call(good), owner(good) {}
};

void refused(const char* what, const std::vector<std::string>& must, const std::function<void(mixture_call&)>& bend) {
  mixture_call c;
  bend(c);
  const heed::plan plan = run_mixture_plan<float>(c.q, c.k, c.v, c.gates, c.o, c.options, {});
  const std::string text = thrown_by([&] { run_mixture<float>(c.q, c.k, c.v, c.gates, c.o, c.options, {}); });
  INFO(what << ": " << text);
  CHECK_FALSE(plan.ok());
  CHECK(text == plan.problem.data());
  CHECK(std::string(plan.why.data()).empty());
  CHECK((c.x.o.untouched() && c.x.lse.untouched()));
  const std::vector<std::string> said = words(text);
  for (const std::string& word : must) {
    INFO("must say " << word);
    CHECK(std::find(said.begin(), said.end(), word) != said.end());
  }
}

}  // namespace

TEST_CASE("gates of the wrong shape") {
  const auto shaped = [](index_t b, index_t h, index_t n) {
    return [=](mixture_call& c) { c.gates = {c.gates.data(), {b, h, n}, {h * n, n, 1}}; };
  };
  refused("batch", {"gates", "1", "q", "2", "batch"}, shaped(1, 4, 7));
  refused("heads", {"gates", "2", "q", "4", "heads"}, shaped(2, 2, 7));
  refused("queries", {"gates", "6", "q", "7", "queries"}, shaped(2, 4, 6));
  refused("queries and heads in the wrong order", {"gates", "7", "4"}, shaped(2, 7, 4));
  refused("null", {"gates", "null"}, [](mixture_call& c) { c.gates = {nullptr, {2, 4, 7}, {28, 7, 1}}; });
  refused("not supplied", {"gates", "0", "2", "batch"}, [](mixture_call& c) { c.gates = {}; });
}

TEST_CASE("outputs that are the gates") {
  refused("o", {"o", "gates", "memory"}, [](mixture_call& c) { c.gates = {c.o.data(), {2, 4, 7}, {28, 7, 1}}; });
  refused("lse", {"lse", "gates", "memory"}, [](mixture_call& c) {
    c.gates = {c.options.lse.data(), {2, 4, 7}, {28, 7, 1}};
  });
}

TEST_CASE("more key/value heads than query heads") {
  const shape reversed{1, 2, 4, 5, 5, 8, 8};
  mixture_case<float> x(reversed);
  const std::string problem = x.mix_plan().problem.data();
  INFO(problem);
  CHECK(problem == "q has 2 heads, k has 4, q's must be a multiple of k's");
  CHECK_THROWS_AS(x.mix(), heed::error);
  CHECK(x.o.untouched());
}

TEST_CASE("more heads than can be counted are a problem, and no rows are no work") {
  constexpr index_t many = std::numeric_limits<std::int32_t>::max();
  const float number = 0;
  float out = 0;
  const auto problem = [&](index_t rows) {
    const input<float> x(&number, {many, many, rows, 1}, {0, 0, 0, 1});
    const output<float> o(&out, {many, many, rows, 1}, {1, 1, 1, 1});
    return run_mixture_plan<float>(x, x, x, {&number, {many, many, rows}, {0, 0, 0}}, o, {}, {});
  };
  CHECK(std::string(problem(1).problem.data()).starts_with("k has 4611686014132420609 heads in all batches"));
  CHECK((problem(0).ok() && problem(0).tasks == 0));
}

TEST_CASE("what softmax refuses") {
  refused("head dim", {"q", "8", "k", "7", "dim"}, [](mixture_call& c) {
    c.k = {c.k.data(), {2, 2, 9, 7}, {144, 72, 8, 1}};
  });
  refused("heads of o", {"o", "2", "4"}, [](mixture_call& c) { c.o = heed::slice(c.o, 1, 0, 2); });
  refused("heads that do not divide", {"q", "3", "k", "2", "multiple"},
          [](mixture_call& c) { c.q = heed::slice(c.q, 1, 0, 3); });
  refused("softcap", {"softcap", "-1", "0"}, [](mixture_call& c) { c.options.softcap = -1; });
  refused("scale", {"scale", "NaN"},
          [](mixture_call& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); });
  refused("sinks", {"sink_logits", "nan"},
          [](mixture_call& c) { c.options.sink_logits = std::numeric_limits<double>::quiet_NaN(); });
  refused("window", {"window", "left", "-2", "-1"}, [](mixture_call& c) { c.options.mask = heed::window(-2); });
  refused("null q", {"q", "null"}, [](mixture_call& c) { c.q = {nullptr, {2, 4, 7, 8}, {224, 56, 8, 1}}; });
  refused("o is q", {"o", "q", "memory"}, [](mixture_call& c) { c.q = {c.o.data(), {2, 4, 7, 8}, {168, 42, 6, 1}}; });
  refused("lse of another shape", {"lse", "heads", "2", "4"}, [](mixture_call& c) {
    c.options.lse = {c.options.lse.data(), {2, 2, 7}, {28, 7, 1}};
  });
}

TEST_CASE("a vector is one row of at most 1024; a whole tensor without its axes is refused, naming bhsd()") {
  CHECK(wrong_with_vectors(run_mixture_vectors) == "");
}
