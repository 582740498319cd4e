// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Where a call runs, and what must hold of it: its plan and the call agree, an error names what is wrong and leaves
// everything as it was.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>

#include "fuzz/bytes.hpp"
#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/plan.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"

namespace heed_test {

// What functions of the caller's throw here
struct stop_calling {};

// An executor and a workspace
class place {
 public:
  enum memory { own, given, too_small };

  explicit place(bytes& in)
      : workers_(in.one_in(3) ? in.between(2, 6) : 1),
        executor_(workers_, in.of({order::forward, order::reversed, order::shuffled}), workers_ > 1 && in.one_in(60)),
        memory_(in.of({own, own, given, given, too_small})),
        skew_(in.below(67)) {
    if (workers_ > 1) tell("executor of ", workers_, " workers");
    if (memory_ != own) tell("workspace ", memory_ == given ? "as planned" : "of one byte less", ", skew ", skew_);
  }

  // Without a workspace yet
  heed::context plain() {
    heed::context x;
    if (workers_ > 1) x.executor = executor_;
    return x;
  }
  // With the workspace that a plan asks for
  heed::context with(std::size_t needed) {
    heed::context x = plain();
    if (memory_ == own || needed == 0) return x;
    const std::size_t size = memory_ == given ? needed : needed - 1;
    bytes_ = std::make_unique<std::byte[]>(size + skew());
    std::memset(bytes_.get(), 0xff, size + skew());
    x.workspace = {bytes_.get() + skew(), size};
    return x;
  }
  bool lacks_memory(std::size_t needed) const { return memory_ == too_small && needed > 1; }
  bool kept() const {  // what lies before the workspace
    for (std::size_t i = 0; bytes_ != nullptr && i < skew(); ++i)
      if (bytes_[i] != std::byte{0xff}) return false;
    return true;
  }
  bool asked_too_much() const { return executor_.asked_too_much(); }

 private:
  std::size_t skew() const { return static_cast<std::size_t>(skew_); }

  index_t workers_;
  test_executor executor_;
  memory memory_;
  index_t skew_;
  std::unique_ptr<std::byte[]> bytes_;
};

inline bool has_word(const std::string& text, const std::string& word) {
  const std::vector<std::string> all = words(text);
  return std::find(all.begin(), all.end(), word) != all.end();
}

// Plans and runs a call. wrong: a word of the error that it must be, or nothing. written(): a hash of all that the call
// may write. Returns whether it ran to its end; functions of the caller's may have stopped it.
template <class Plan, class Run, class Written>
bool run_at(place& at, const std::string& wrong, const Plan& plan, const Run& run, const Written& written) {
  const heed::plan planned = plan(at.plain());
  const std::string problem = planned.problem.data();
  tell(planned.ok() ? planned.path : "refused: " + problem);
  if (wrong.empty()) demand(planned.ok(), "a call that fits is refused: " + problem);
  if (!wrong.empty()) {
    demand(!planned.ok(), "a call with a wrong " + wrong + " is accepted");
    demand(has_word(problem, wrong), "the error of a wrong " + wrong + " does not name it: " + problem);
  }
  const heed::context context = at.with(planned.workspace_bytes);
  const bool lacks_memory = planned.ok() && at.lacks_memory(planned.workspace_bytes);
  const auto before = written();
  try {
    run(context);
  } catch (const heed::error& e) {
    const std::string text = e.what();
    demand(written() == before, "a call that is refused has written something: " + text);
    if (lacks_memory)
      demand(has_word(text, "workspace"), "the error of a small workspace does not name it: " + text);
    else
      demand(text == problem, "the call says: " + text + "; its plan says: " + problem);
    return false;
  } catch (const stop_calling&) {
    tell("stopped by the caller's function");
    return false;
  }
  demand(planned.ok() && !lacks_memory, "a call runs that should be refused: " + problem);
  demand(at.kept() && !at.asked_too_much(), "a call wrote before its workspace, or asked for too many workers");
  return true;
}

}  // namespace heed_test
