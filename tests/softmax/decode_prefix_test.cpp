// SPDX-License-Identifier: BSD-3-Clause

// softmax::decode of sequences with a shared prefix beside the reference, whether every query sees all of it or not.

#include <vector>

#include "support/counting_new.hpp"
#include "support/decode_case.hpp"
#include "support/executor.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

using numbers = std::vector<std::int32_t>;

// own: the tokens of the sequences; first: those before them, as a case of one sequence
struct prefixed_case {
  decode_case<float> own, first;

  prefixed_case(const decode_problem& p, std::int32_t before, const cache_setup& before_in,
                const heed::softmax::options<float>& how = {})
      : own(p, how), first(prefix_of(p, before, before_in), {}, 7) {}

  void decode(const heed::context& ctx = {}) {
    own.run([&](const decode_call<float>& x) { run_prefixed(x, first.cache(), own.options, ctx); });
  }
  heed::plan plan(const heed::context& ctx = {}) const {
    return plan_prefixed(own.call(), first.cache(), own.options, ctx);
  }

 private:
  static decode_problem prefix_of(decode_problem p, std::int32_t before, const cache_setup& in) {
    p.lengths = {before}, p.per_head = false, p.cache = in;
    return p;
  }
};

void check_prefixed(prefixed_case& x) {
  INFO(to_string(x.own.p) << " behind " << to_string(x.first.p));
  const heed::plan plan = x.plan();
  const std::uint64_t before = x.own.hash() ^ x.first.hash();
  x.decode();
  const any_cache<float> prefix = x.first.cache();
  const verdict result =
      compare(x.own, expected_of<float>(x.own, x.own.options, nullptr, &prefix), decode_rounds_weights(plan));
  INFO(plan.path << "; " << plan.problem.data() << ": " << result.where);
  const bool unchanged = (x.own.hash() ^ x.first.hash()) == before, filled = x.own.filled();
  CHECK(plan.ok());
  CHECK(result.worst <= 1);
  CHECK(unchanged);
  CHECK(x.own.kept_canaries());
  CHECK(filled);
}

// The shape of a call with all tokens, for options
shape whole_shape(const decode_problem& p, std::int32_t before) {
  shape s = p.as_shape();
  s.keys += before;
  return s;
}

const decode_problem some_problems[] = {{4, 2, 1, 20, 12, {30, 5, 0}},
                                        {1, 1, 1, 16, 16, {40, 40, 40, 40, 40, 1, 17}},
                                        {8, 1, 4, 12, 16, {90, 4}},
                                        {2, 4, 2, 8, 9, {70, 129}}};

}  // namespace

TEST_CASE("decode behind a shared prefix: caches of every kind and storage type") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems)
    for (const std::int32_t before : {0, 1, 17, 300})
      for (const kept type : all_kept)
        for (const bool causal : {false, true}) {
          if (turn++ % thinning != 0) continue;
          decode_problem stored = p;
          stored.cache = some_cache(turn % 8, p.longest()), stored.stored_kv = type;
          prefixed_case x(stored, before, whole_caches(before, 1)[turn % 6],
                          {.mask = causal ? heed::causal() : heed::mask{}});
          check_prefixed(x);
        }
}

TEST_CASE("decode behind a shared prefix: every option, windows that end in it") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems) {
    const option_parts<float> parts(whole_shape(p, 50));
    for (const auto& part : parts.all) {
      if (part.name == "top_left" || part.kind == part_kind::key_lengths || turn++ % thinning != 0) continue;
      INFO(part.name);
      decode_problem stored = p;
      stored.cache = some_cache(turn % 8, p.longest());
      prefixed_case x(stored, 50, {cache_kind::paged}, parts.of({&part}, parts.whole()));
      check_prefixed(x);
    }
    for (const index_t left : {3, 40, 60, 100})
      for (const index_t keep_first : {0, 4, 55}) {
        prefixed_case x(p, 50, {}, {.mask = heed::causal() & heed::window(left, 0, keep_first), .sink_logits = 1});
        check_prefixed(x);
      }
  }
}

TEST_CASE("decode behind a shared prefix: lengths per head, many rows") {
  for (const index_t n : {1, 17}) {
    decode_problem p{4, 2, n, 16, 12, {30, 0, 5, 60}};
    p.per_head = true;
    prefixed_case x(p, 100, {}, {.mask = heed::causal()});
    check_prefixed(x);
  }
}

TEST_CASE("decode behind a shared prefix: the same bits for 1 to 8 workers, and every place of the tokens") {
  for (decode_problem p : some_problems) {
    prefixed_case serial(p, 1300, {}, {.mask = heed::causal()});
    check_prefixed(serial);
    for (index_t workers = 1; workers <= 8; ++workers)
      for (const order in : {order::forward, order::reversed, order::shuffled}) {
        test_executor executor(workers, in, workers % 3 == 0);
        prefixed_case x(p, 1300, {}, {.mask = heed::causal()});
        x.decode({.executor = executor});
        CHECK(same_results(x.own, serial.own));
      }
    for (std::size_t kind = 0; kind < 6; ++kind) {
      p.cache = whole_caches(p.longest())[kind];
      prefixed_case x(p, 1300, whole_caches(1300)[(kind * 5 + 1) % 6], {.mask = heed::causal()});
      x.decode();
      INFO(to_string(x.own.p) << " behind " << to_string(x.first.p));
      CHECK(same_results(x.own, serial.own));
    }
  }
}

TEST_CASE("decode behind a shared prefix: no allocation in the planned workspace, for any lengths") {
  for (const decode_problem& p : some_problems) {
    prefixed_case x(p, 700, {}, {.mask = heed::causal()}), y(p, 700, {}, {.mask = heed::causal()});
    std::vector<std::byte> memory(x.plan().workspace_bytes, std::byte{0xff});
    for (const std::int32_t before : {700, 3, 350}) {
      x.first.rows.lengths = y.first.rows.lengths = {before};
      const decode_call<float> call = x.own.call();
      const any_cache<float> prefix = x.first.cache();
      const long count = allocations;
      run_prefixed(call, prefix, x.own.options, {.workspace = memory});
      const long after = allocations;
      CHECK(after == count);
      x.own.stored_o.copy_to(x.own.o), y.decode();
      CHECK(same_results(x.own, y.own));
    }
  }
}
