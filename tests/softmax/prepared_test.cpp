// SPDX-License-Identifier: BSD-3-Clause

// Prepared calls: the bits of forward on every memory, no allocation, and errors before anything is written.

#include <cstring>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"
#include "support/executor.hpp"
#include "support/messages.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

template <class T> prepared_memory<T> memory_of(const softmax_case<T>& x) {
  return {x.q.cview(), x.k.cview(), x.v.cview(), x.o.view()};
}
const auto nothing = [](std::size_t) {};

// The error of a second run on `second` after a first on `x`
std::string second_run(const softmax_case<float>& x, const prepared_memory<float>& second) {
  return thrown_by([&] { run_prepared<float>({memory_of(x), second}, x.options, {}, nothing); });
}

}  // namespace

TEST_CASE("a prepared call has the bits of forward on every memory") {
  for (const shape& s : {shape{2, 4, 2, 70, 90, 20, 12}, shape{1, 8, 2, 1, 300, 16, 16}, shape{1, 2, 6, 3, 5, 8, 8}})
    for (const bool causal : {false, true}) {
      INFO(to_string(s));
      const heed::softmax::options<float> options{.mask = causal ? heed::causal() : heed::mask(), .alibi_slopes = 0.25};
      std::vector<softmax_case<float>> all;
      for (std::uint32_t seed = 1; seed <= 4; ++seed) all.emplace_back(s, options, layouts{}, seed);
      std::vector<prepared_memory<float>> memory;
      for (auto& x : all) x.options.lse = {}, memory.push_back(memory_of(x));
      test_executor executor(3, order::shuffled, false);
      run_prepared<float>(memory, all[0].options, {.executor = executor}, nothing);
      for (std::uint32_t seed = 1; seed <= 4; ++seed) {
        softmax_case<float> plain(s, options, layouts{}, seed);
        plain.forward();
        CHECK(same_bits(all[seed - 1].o, plain.o));
      }
    }
}

TEST_CASE("runs of a prepared call allocate nothing, with a workspace or without") {
  const shape s{1, 4, 2, 90, 130, 16, 16};
  softmax_case<double> x(s, {.mask = heed::causal()});
  const auto memory = memory_of(x);
  const std::vector<prepared_memory<double>> runs(6, memory);
  std::vector<std::byte> bytes(x.plan().workspace_bytes);
  for (const heed::context& ctx : {heed::context{}, heed::context{.workspace = bytes}}) {
    long before = 0, first = 0;
    const std::function<void(std::size_t)> count = [&](std::size_t i) {
      if (i == 0) first = allocations;
      before = allocations;
    };
    run_prepared<double>(runs, x.options, ctx, count);
    CHECK(before == first);
  }
  check(x);
}

TEST_CASE("a prepared call reads its lengths, offsets and slopes anew") {
  std::vector<std::int32_t> lengths{40, 7};
  softmax_case<float> x({2, 2, 2, 3, 50, 8, 8}, {.mask = heed::key_lengths(lengths), .align = heed::end_of_lengths});
  softmax_case<float> later({2, 2, 2, 3, 50, 8, 8}, x.options, {}, 2);
  later.options.lse = x.options.lse;
  run_prepared<float>({memory_of(x), memory_of(later)}, x.options, {}, [&](std::size_t i) {
    if (i == 1) lengths = {11, 50};
  });
  softmax_case<float> plain({2, 2, 2, 3, 50, 8, 8}, {.mask = heed::key_lengths(lengths), .align = heed::end_of_lengths},
                            {}, 2);
  plain.forward();
  CHECK(same_bits(later.o, plain.o));
  CHECK(same_bits(x.lse, plain.lse));

  const std::string text = thrown_by([&] {
    run_prepared<float>({memory_of(x), memory_of(later)}, x.options, {}, [&](std::size_t i) {
      if (i == 1) lengths[1] = 51;
    });
  });
  CHECK(text == "key_lengths[1] is 51, must be 0 to 50 (the keys of k)");
}

TEST_CASE("packed offsets may move, within the scratch that there is") {
  std::vector<std::int32_t> offsets{0, 120, 200};  // then {0, 1, 200}: more tasks on every machine
  const shape s{1, 2, 2, 200, 200, 8, 8};
  softmax_case<float> x(s, {.mask = heed::packed(offsets, offsets)}), later(s, x.options, {}, 2);
  later.options.lse = x.options.lse;
  run_prepared<float>({memory_of(x), memory_of(later)}, x.options, {}, [&](std::size_t i) {
    if (i == 1) offsets[1] = 1;
  });
  softmax_case<float> plain(s, {.mask = heed::packed(offsets, offsets)}, {}, 2);
  plain.forward();
  CHECK(same_bits(later.o, plain.o));

  std::vector<std::int32_t> ends = {0, 1, 2};  // one row each, then both in one sequence: a larger task
  softmax_case<float> few({1, 2, 2, 2, 2, 200, 200}, {.mask = heed::packed(ends, ends)});
  const std::string text = thrown_by([&] {
    run_prepared<float>({memory_of(few), memory_of(few)}, few.options, {}, [&](std::size_t i) {
      if (i == 1) ends[1] = 0;
    });
  });
  CHECK(text.find("packed: a task of these offsets needs ") == 0);
}

TEST_CASE("memory that does not fit is refused by name and number, and nothing is written") {
  softmax_case<float> x({1, 2, 2, 5, 9, 8, 8}), other({1, 2, 2, 5, 9, 8, 8}, {}, {}, 2);
  const auto good = memory_of(other);
  auto bad = good;
  bad.q = heed::slice(good.q, 2, 0, 4);
  CHECK(second_run(x, bad) == "q has extent 4 on axis 2, was prepared with 5");
  bad = good;
  bad.k = heed::bshd(good.k.data(), 1, 9, 2, 8);
  CHECK(second_run(x, bad) == "k has stride 8 on axis 1, was prepared with 72");
  bad = good;
  bad.v = heed::bhsd(static_cast<const float*>(nullptr), 1, 2, 9, 8);
  CHECK(second_run(x, bad) == "v is null but has elements");
  bad = good;
  bad.q = heed::bhsd(static_cast<const float*>(good.o.data()), 1, 2, 5, 8);
  CHECK(second_run(x, bad) == "o is the same memory as q");
  bad = good;
  bad.o = heed::bhsd(const_cast<float*>(x.options.lse.data()), 1, 2, 5, 8);
  CHECK(second_run(x, bad) == "o is the same memory as lse");
  CHECK(thrown_by([&] { run_prepared<float>({memory_of(x)}, {.softcap = -1.0}, {}, nothing); }) ==
        "softcap is -1, must be at least 0");
  softmax_case<float> untouched({1, 2, 2, 5, 9, 8, 8}, {}, {}, 2);
  CHECK(same_bits(other.o, untouched.o));
}
