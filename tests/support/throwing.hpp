// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Functions of the caller's that throw, and what must hold of a call that runs them.

#include <atomic>
#include <stdexcept>
#include <string>

#include "heed/core/context.hpp"
#include "support/executor.hpp"

namespace heed_test {

// Counts the calls of a function and throws in one of them, or in all from that one on.
struct fuse {
  long at = -1;  // the call that throws; below 0: none
  bool number = false, again = false;
  std::atomic<long> calls{0};

  void burn() {
    const long call = calls.fetch_add(1);
    if (at < 0 || (again ? call < at : call != at)) return;
    if (number) throw 7;
    throw std::runtime_error("thrown by the caller's function");
  }
};

// What comes out of f: "", "number" or "text" as a fuse throws them, or "something else"
template <class F> std::string outcome_of(F f) {
  try {
    f();
  } catch (int n) {
    return n == 7 ? "number" : "something else";
  } catch (const std::runtime_error& e) {
    return e.what() == std::string("thrown by the caller's function") ? "text" : "something else";
  } catch (...) {
    return "something else";
  }
  return "";
}

// make(fuse): a case whose functions burn it, call(case, context), same(case, case). What is wrong, or nothing: a call
// must throw what its functions throw, write nothing beside its outputs, and leave no trace in the next call. in_turn:
// the executor runs its indices one after the other, so that no other task may have begun.
template <class Make, class Call, class Same>
std::string mishandled(const heed::context& where, bool in_turn, Make make, Call call, Same same) {
  std::string wrong;
  fuse none;
  auto right = make(none);
  call(right, heed::context{});
  const long all = none.calls;
  for (const bool number : {false, true})
    for (const bool again : {false, true})
      for (const long at : {0L, all / 3, all - 1}) {
        fuse f{at, number, again};
        auto x = make(f);
        const std::string got = outcome_of([&] { call(x, where); });
        const long calls = f.calls;
        const std::string here = " at call " + std::to_string(at) + " of " + std::to_string(all) + "; ";
        if (got != (number ? "number" : "text")) wrong += "threw " + (got.empty() ? "nothing" : got) + here;
        if (in_turn && calls != at + 1) wrong += std::to_string(calls) + " calls" + here;
        if (!x.o.canaries_alive()) wrong += "wrote beside its output" + here;
        f.at = -1;
        const std::string next = outcome_of([&] { call(x, where); });
        if (!next.empty() || !same(x, right)) wrong += "the next call is wrong" + here;
      }
  return wrong;
}

// The same on the calling thread and for 1 to 5 workers, in any order, in turn and at once.
template <class Make, class Call, class Same> std::string mishandled_anywhere(Make make, Call call, Same same) {
  std::string wrong = mishandled({}, true, make, call, same);
  for (heed::index_t workers = 1; workers <= 5; ++workers)
    for (const bool threads : {false, true}) {
      test_executor executor(workers, threads ? order::shuffled : order::reversed, threads);
      const std::string here = mishandled({.executor = executor}, !threads, make, call, same);
      if (!here.empty()) wrong += std::to_string(workers) + (threads ? " threads: " : " workers: ") + here;
    }
  return wrong;
}

}  // namespace heed_test
