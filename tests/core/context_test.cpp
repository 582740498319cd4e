// SPDX-License-Identifier: BSD-3-Clause

// Executors, workspaces, plans and error texts.

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/plan.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"

namespace {

using heed::context;
using heed::executor_ref;
using heed::index_t;
using heed::detail::arena;
using heed_test::order;
using heed_test::test_executor;

static_assert(std::is_trivially_copyable_v<executor_ref> && std::is_trivially_copyable_v<context>);
static_assert(std::is_aggregate_v<context> && std::is_aggregate_v<heed::plan>);
static_assert(std::is_trivially_copyable_v<heed::plan>);
static_assert(std::is_base_of_v<std::invalid_argument, heed::error>);
static_assert(std::is_base_of_v<std::runtime_error, heed::not_converged>);

struct typed {  // not a template: takes what std::function takes; concurrency of another type, const members
  unsigned char concurrency() const { return 3; }
  void parallel_for(index_t n, const std::function<void(index_t)>& f) const {
    for (index_t i = 0; i < n; ++i) f(i);
  }
};
struct by_value {
  int offered;
  int concurrency() { return offered; }
  template <class F> void parallel_for(index_t n, F f) {
    for (int i = 0; i < n; ++i) f(i);
  }
};
struct by_reference {
  index_t concurrency() { return 2; }
  template <class F> void parallel_for(index_t n, F& f) {
    for (index_t i = 0; i < n; ++i) f(i);
  }
};
struct no_concurrency {
  template <class F> void parallel_for(index_t, F) {}
};
static_assert(std::is_convertible_v<typed&, executor_ref> && std::is_convertible_v<const typed&, executor_ref>);
static_assert(std::is_convertible_v<test_executor&, executor_ref> &&
              std::is_convertible_v<by_reference&, executor_ref>);
static_assert(!std::is_convertible_v<no_concurrency&, executor_ref> && !std::is_convertible_v<int&, executor_ref>);
static_assert(!std::is_convertible_v<by_value, executor_ref>);  // a temporary would be gone at the call
static_assert(!std::is_convertible_v<const typed, executor_ref> &&
              std::is_convertible_v<const executor_ref, executor_ref>);

std::vector<int> times_run(const executor_ref& executor, index_t n) {
  std::vector<int> times(static_cast<std::size_t>(n));
  auto task = [&times](index_t i) noexcept { ++times[static_cast<std::size_t>(i)]; };
  executor.run(n, task);
  return times;
}

TEST_CASE("the default executor is the calling thread, in order") {
  const executor_ref serial;
  CHECK(serial.concurrency() == 1);
  std::vector<index_t> seen;
  auto task = [&seen](index_t i) noexcept { seen.push_back(i); };
  serial.run(3, task);
  CHECK(seen == std::vector<index_t>{0, 1, 2});
  serial.run(0, task);
  CHECK(seen.size() == 3);
}

TEST_CASE("an executor of the user runs every index once, one phase per call") {
  for (const bool threads : {false, true})
    for (const order in : {order::forward, order::reversed, order::shuffled})
      for (index_t n = 1; n <= 5; ++n) {
        test_executor executor(5, in, threads);
        CHECK(executor_ref(executor).concurrency() == 5);
        CHECK(times_run(executor, n) == std::vector<int>(static_cast<std::size_t>(n), 1));
        CHECK(executor.phases() == 1);
      }
  test_executor idle(2);
  CHECK(times_run(idle, 0).empty());
  CHECK(idle.phases() == 0);
}

TEST_CASE("executors may take the task as they like") {
  const typed a;
  by_value b{4};
  by_reference c;
  CHECK(executor_ref(a).concurrency() == 3);
  CHECK(times_run(a, 3) == std::vector<int>(3, 1));
  CHECK(times_run(b, 3) == std::vector<int>(3, 1));
  CHECK(times_run(c, 2) == std::vector<int>(2, 1));
  executor_ref original(b);
  executor_ref copy = original;  // of a non-const lvalue: refers to b, not to original
  original = {};
  CHECK(original.concurrency() == 1);
  CHECK(copy.concurrency() == 4);
}

TEST_CASE("concurrency below 1 counts as 1") {
  for (const int offered : {0, -3}) {
    by_value executor{offered};
    CHECK(executor_ref(executor).concurrency() == 1);
  }
}

TEST_CASE("context, as users write it") {
  by_value executor{2};
  std::vector<std::byte> bytes(100);
  const context both{.executor = executor, .workspace = bytes};
  CHECK(both.executor.concurrency() == 2);
  CHECK(both.workspace.size() == 100);
  const context none = {};
  CHECK(none.executor.concurrency() == 1);
  CHECK(none.workspace.empty());
}

struct pieces {  // as a kernel takes them: the same code counts and takes
  float* a;
  double* b;
  std::byte* c;
  std::int32_t* none;
  explicit pieces(arena& memory)
      : a(memory.take<float>(17)),
        b(memory.take<double>(8)),
        c(memory.take<std::byte>(1)),
        none(memory.take<std::int32_t>(0)) {}
};

constexpr std::size_t needed_by_pieces = 128 + 64 + 64 + 64;  // 17 floats, 8 doubles, 1 byte, slack

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

void check_pieces(const pieces& p, const std::byte* begin, const std::byte* end) {
  CHECK((aligned(p.a) && aligned(p.b) && aligned(p.c)));
  CHECK(reinterpret_cast<std::byte*>(p.a) >= begin);
  CHECK(reinterpret_cast<std::byte*>(p.b) - reinterpret_cast<std::byte*>(p.a) == 128);
  CHECK(p.c - reinterpret_cast<std::byte*>(p.b) == 64);
  CHECK(p.c + 64 <= end);
  CHECK(p.none == nullptr);
  for (int i = 0; i < 17; ++i) p.a[i] = 1;  // for the sanitizers
  for (int i = 0; i < 8; ++i) p.b[i] = 2;
  *p.c = std::byte{3};
}

TEST_CASE("arena: a dry run counts, slack included, and allocates nothing") {
  const long before = heed_test::allocations;
  arena dry;
  const pieces p(dry);
  const long allocated = heed_test::allocations - before;
  CHECK(allocated == 0);
  CHECK(p.a == nullptr);
  CHECK(p.c == nullptr);
  CHECK(dry.needed() == needed_by_pieces);
  CHECK(arena().needed() == 0);
}

TEST_CASE("arena: a workspace of any alignment, exactly as large as needed") {
  for (std::size_t offset = 0; offset < 64; ++offset) {
    std::vector<std::byte> bytes(needed_by_pieces + offset);
    const std::span<std::byte> workspace = std::span(bytes).subspan(offset);
    const long before = heed_test::allocations;
    arena memory(workspace, needed_by_pieces);
    const pieces p(memory);
    const long allocated = heed_test::allocations - before;
    CHECK(allocated == 0);
    CHECK(memory.needed() == needed_by_pieces);
    check_pieces(p, workspace.data(), workspace.data() + workspace.size());
  }
}

TEST_CASE("arena: without a workspace, one allocation; with nothing needed, none") {
  const long before = heed_test::allocations;
  {
    arena memory({}, needed_by_pieces);
    const pieces p(memory);
    const long allocated = heed_test::allocations - before;
    CHECK(allocated == 1);
    check_pieces(p, nullptr, reinterpret_cast<std::byte*>(std::numeric_limits<std::uintptr_t>::max()));
  }
  const long between = heed_test::allocations;
  arena nothing({}, 0);
  CHECK(nothing.take<float>(0) == nullptr);
  const long allocated = heed_test::allocations - between;
  CHECK(allocated == 0);
}

TEST_CASE("a workspace that is too small is named with both numbers") {
  std::array<std::byte, 319> bytes;
  heed::plan plan;
  CHECK_FALSE(heed::detail::check_workspace(plan.problem, bytes, needed_by_pieces));
  CHECK_FALSE(plan.ok());
  CHECK(std::string(plan.problem.data()) == "context.workspace has 319 bytes, must have at least 320");
  std::string text;
  try {
    arena memory(bytes, needed_by_pieces);
  } catch (const heed::error& e) {
    text = e.what();
  }
  CHECK(text == plan.problem.data());

  heed::plan fine;
  CHECK(heed::detail::check_workspace(fine.problem, bytes, 319));
  CHECK(heed::detail::check_workspace(fine.problem, {}, needed_by_pieces));
  CHECK(heed::detail::check_workspace(fine.problem, bytes, 0));
  CHECK(fine.ok());
}

template <class... Values> std::string written(const char* text, Values... values) {
  heed::plan plan;
  heed::detail::write(plan.problem, text, values...);
  return plan.problem.data();
}

TEST_CASE("messages: words and numbers, cut at the end of the text") {
  CHECK(written("k has % keys, v has %", index_t{12}, std::size_t{9}) == "k has 12 keys, v has 9");
  CHECK(written("softcap is %, must be at least %", -0.5, 0) == "softcap is -0.5, must be at least 0");
  CHECK(written("% % % %", 0.1, 1e300, 3.0, 0.1f) == "0.1 1e+300 3 0.10000000149011612");
  CHECK(written("%", -std::numeric_limits<double>::max()) == "-1.7976931348623157e+308");
  CHECK(written("% %", std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()) ==
        "nan -inf");
  CHECK(written("%", std::numeric_limits<index_t>::min()) == "-9223372036854775808");
  CHECK(written("%%%%", 'x' == 'x', static_cast<unsigned char>(2), short{-3}, 4u) == "12-34");
  CHECK(written("").empty());

  const std::string long_text(150, 'x');
  CHECK(written("%y%", long_text.c_str(), index_t{7}) == long_text + "y7");
  CHECK(written("%%%", long_text.c_str(), long_text.c_str(), 12345) == std::string(191, 'x'));
  CHECK(written("%%", std::string(189, 'x').c_str(), 12345) == std::string(189, 'x') + "12");
  CHECK(written("%%", std::string(191, 'x').c_str(), 1).size() == 191);
}

TEST_CASE("fail throws heed::error with the text") {
  const auto text = [](auto... parts) -> std::string {
    try {
      heed::detail::fail(parts...);
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
  };
  CHECK(text("plain") == "plain");
  CHECK(text("q has % heads", 3) == "q has 3 heads");
}

TEST_CASE("a plan without a problem is ok") {
  heed::plan plan;
  CHECK(plan.ok());
  CHECK(plan.splits == 1);
  CHECK(plan.workspace_bytes == 0);
  plan.problem[0] = 'x';
  CHECK_FALSE(plan.ok());
}

}  // namespace
