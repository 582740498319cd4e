// SPDX-License-Identifier: BSD-3-Clause

// Executors that break their contract, under every verb: an error with numbers, what they throw, or the right result.

#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/catch.hpp"
#include "support/every_call.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

using body = scripted_executor::task;

void all_of(index_t n, const body& f) {
  for (index_t i = 0; i < n; ++i) f(i);
}

struct result {
  std::string error, thrown;
  bool right = false;
};
// Runs a call on an executor; right: it wrote what it writes without one
result run(every_call& calls, const one_call& call, scripted_executor& executor) {
  result x;
  calls.forget();
  call.run({});
  const std::vector<std::byte> expected = call.written();
  calls.forget();
  executor.runs = 0;
  try {
    call.run({.executor = executor});
  } catch (const heed::error& e) {
    x.error = e.what();
  } catch (const std::runtime_error& e) {
    x.thrown = e.what();
  }
  x.right = call.written() == expected;
  return x;
}

}  // namespace

TEST_CASE("every verb: tasks run twice, backwards, or at once by several threads give the same bits") {
  every_call calls;
  scripted_executor twice{3, [](index_t n, const body& f) { all_of(n, f), all_of(n, f); }};
  scripted_executor backwards{3, [](index_t n, const body& f) {
                                for (index_t i = n; i > 0; --i) f(i - 1);
                              }};
  scripted_executor at_once{3, [](index_t n, const body& f) {
                              std::vector<std::thread> all;
                              for (int t = 0; t < 2; ++t) all.emplace_back([&] { all_of(n, f); });
                              for (std::thread& t : all) t.join();
                            }};
  for (const one_call& call : calls.all())
    for (scripted_executor* const executor : {&twice, &backwards, &at_once}) {
      INFO(call.name);
      const result x = run(calls, call, *executor);
      CHECK((x.error.empty() && x.thrown.empty() && x.right));
    }
}

TEST_CASE("every verb: a task left out, or made up, is an error with numbers") {
  every_call calls;
  for (const one_call& call : calls.all()) {
    INFO(call.name);
    scripted_executor lazy{3, [](index_t n, const body& f) { all_of(n - 1, f); }};
    const std::string left = run(calls, call, lazy).error;
    CHECK(lazy.runs > 0);
    CHECK(left.starts_with("context.executor ran "));
    CHECK(lazy.runs == 1);  // no phase follows
    scripted_executor idle{3, [](index_t, const body&) {}};
    CHECK(run(calls, call, idle).error.starts_with("context.executor ran 0 of "));
    for (const index_t stray : {index_t{-1}, index_t{1} << 60, std::numeric_limits<index_t>::min()}) {
      scripted_executor wrong{3, [stray](index_t n, const body& f) { all_of(n, f), f(stray); }};
      const std::string text = run(calls, call, wrong).error;
      CHECK(text.starts_with("context.executor called f(" + std::to_string(stray) + ") of "));
    }
  }
}

TEST_CASE("every verb: what an executor throws before, between and after its tasks reaches the caller") {
  every_call calls;
  for (const one_call& call : calls.all())
    for (const int when : {0, 1, 2}) {
      INFO(call.name << ", " << when);
      scripted_executor executor{3, [when](index_t n, const body& f) {
                                   all_of(when == 0 ? 0 : when == 1 ? (n + 1) / 2 : n, f);
                                   throw std::runtime_error("from the executor");
                                 }};
      CHECK(run(calls, call, executor).thrown == "from the executor");
      scripted_executor well{3, all_of};
      const result next = run(calls, call, well);  // nothing is left behind
      CHECK((next.error.empty() && next.right));
    }
}

TEST_CASE("every verb: any number of workers may be offered") {
  every_call calls;
  for (const one_call& call : calls.all())
    for (const index_t offered : {index_t{0}, index_t{-5}, std::numeric_limits<index_t>::min(), index_t{1} << 60,
                                  std::numeric_limits<index_t>::max()}) {
      INFO(call.name << ", " << offered);
      scripted_executor executor{offered, all_of};
      const result x = run(calls, call, executor);
      CHECK((x.error.empty() && x.right));
    }
}

TEST_CASE("what the caller's function throws comes before what the executor does wrong") {
  std::vector<float> x(2 * 40 * 8, 1);
  const auto q = heed::bhsd(x.data(), 1, 2, 40, 8);
  std::vector<float> y(x);
  const auto o = heed::bhsd(y.data(), 1, 2, 40, 8);
  std::vector<float> k(x), v(x);
  const heed::softmax::options<float> how{.score = [](float, const heed::position&) -> float { throw 7; }};
  for (const bool lazy : {false, true}) {
    scripted_executor executor{3, [lazy](index_t n, const body& f) {
                                 all_of(lazy ? n - 1 : n, f);
                                 if (!lazy) throw std::runtime_error("from the executor");
                               }};
    executor.workers = 2;
    CHECK_THROWS_AS(heed::softmax::forward(q, heed::bhsd(k.data(), 1, 2, 40, 8), heed::bhsd(v.data(), 1, 2, 40, 8), o,
                                           how, {.executor = executor}),
                    int);
  }
}
