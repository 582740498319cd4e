// SPDX-License-Identifier: BSD-3-Clause

// local_linear::decode beside the reference: every solver in every kind of cache; options, bits, memory, errors.

#include <algorithm>
#include <limits>
#include <vector>

#include "support/counting_new.hpp"
#include "support/decode_errors.hpp"
#include "support/executor.hpp"
#include "support/local_linear_decode.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

const decode_problem some_problems[] = {
    {4, 2, 1, 20, 12, {170, 33}}, {8, 1, 5, 12, 16, {90, 4}}, {2, 4, 3, 8, 9, {70, 129}}, {4, 4, 17, 16, 8, {140}}};

decode_problem in_cache(decode_problem p, std::size_t turn) {
  p.cache = some_cache(turn, p.longest()), p.stored_kv = all_kept[turn / 2 % 4];
  return p;
}

}  // namespace

TEST_CASE("local_linear decode: every solver, caches of every kind and storage type") {
  std::size_t turn = 0;
  for (const decode_problem& p : some_problems)
    for (std::size_t kind = 0; kind < 9; ++kind)
      for (const kept type : all_kept) {
        if (turn++ % thinning != 0) continue;
        decode_problem stored = p;
        stored.cache = some_cache(kind, p.longest()), stored.stored_kv = type;
        check_fits<float>(stored, turn % 2 == 0 ? 0.5 : 3, {.mask = turn % 3 == 0 ? heed::mask{} : heed::causal()});
        if (type == kept::f32) check_fits<double>(stored, 0.5, {.mask = heed::causal()});
      }
}

TEST_CASE("local_linear decode: groups, new tokens, head dims") {
  std::size_t turn = 0;
  for (const index_t group : {1, 2, 3, 7, 8, 16})
    for (const index_t n : {1, 2, 5, 17})
      for (const index_t d : {1, 3, 8, 20, 64}) {
        if (++turn % (thinning == 1 ? 3 : 13) != 0) continue;
        check_fits<float>(in_cache({group, 1, n, d, turn % 2 == 0 ? d : 12, {static_cast<std::int32_t>(60 + d)}}, turn),
                          1.0, {.mask = heed::causal()});
      }
}

TEST_CASE("local_linear decode: every option") {
  std::size_t turn = 0;
  using parts = option_parts<float, heed::local_linear::options<float>>;
  for (const decode_problem& p : some_problems) {
    const parts all(p.as_shape());
    for (const auto& part : all.all) {
      if (part.name == "top_left" || part.kind == part_kind::key_lengths || turn++ % thinning != 0) continue;
      INFO(part.name);
      check_fits<float>(in_cache(p, turn), 0.5, all.of({&part}, all.whole()));
    }
  }
}

TEST_CASE("local_linear decode: a ridge per head, of infinity; lengths of 0, 1 and per head") {
  for (const index_t group : {1, 4, 8})
    for (const index_t n : {1, 4}) {
      std::vector<double> ridge(static_cast<std::size_t>(2 * group), 0.3);
      ridge.back() = inf;
      decode_problem p{2 * group, 2, n, 12, 8, {80, 1, 0, 3}};
      check_fits<float>(p, ridge, {.mask = heed::causal()});
      p.per_head = true;
      check_fits<float>(p, ridge, {.mask = heed::causal()});
    }
}

TEST_CASE("local_linear decode: the same bits for 1 to 8 workers and every kind of cache") {
  for (const decode_problem& problem : {decode_problem{8, 2, 1, 16, 12, {600, 3, 200}}, {4, 4, 3, 8, 8, {500}}}) {
    decode_problem p = problem;
    local_linear_decode<float> serial(p, 0.5, {.mask = heed::causal()});
    serial.decode();
    for (index_t workers = 1; workers <= 8; ++workers)
      for (const order in : {order::forward, order::reversed, order::shuffled}) {
        test_executor executor(workers, in, workers % 3 == 0);
        local_linear_decode<float> x(p, 0.5, {.mask = heed::causal()});
        x.decode({.executor = executor});
        CHECK(same_results(x, serial));
      }
    for (const cache_setup& cache : whole_caches(p.longest(), 2)) {
      p.cache = cache;
      local_linear_decode<float> x(p, 0.5, {.mask = heed::causal()});
      x.decode();
      INFO(to_string(p));
      CHECK(same_results(x, serial));
    }
  }
}

TEST_CASE("local_linear decode: the workspace of one plan is enough for every length, without allocation") {
  for (const index_t group : {1, 8}) {
    const decode_problem p{2 * group, 2, 1, 16, 16, {900, 900}};
    local_linear_decode<float> x(p, 0.5), y(p, 0.5);
    x.tokens.rows.lengths = {1, 1};
    std::vector<std::byte> memory(x.plan().workspace_bytes);
    for (const std::int32_t length : {0, 17, 300, 900}) {
      x.tokens.rows.lengths = y.tokens.rows.lengths = {length, length / 2};
      const decode_call<float> call = x.tokens.call();
      const long before = allocations;
      run_decode<float>(call, x.fit.ridge, x.fit.options, {.workspace = memory});
      const long after = allocations;
      CHECK(after == before);
      x.tokens.stored_o.copy_to(x.fit.o), y.decode();
      CHECK(same_results(x, y));
    }
  }
}

TEST_CASE("local_linear decode: what hidden tokens hold has no effect") {
  for (const kept type : all_kept)
    for (const index_t group : {1, 8}) {
      decode_problem p{group, 1, 2, 12, 8, {150}, {cache_kind::paged}};
      p.stored_kv = type;
      local_linear_decode<float> clean(p, 0.5, {.mask = heed::window(50, 0, 40)}),
          x(p, 0.5, {.mask = heed::window(50, 0, 40)});
      x.tokens.spoil(43, 60, std::numeric_limits<float>::quiet_NaN());
      clean.decode(), x.decode();
      CHECK(same_results(x, clean));
    }
}

TEST_CASE("local_linear decode: errors") {
  const decode_problem good{4, 2, 2, 8, 6, {20, 11}, {cache_kind::ring, 13, 3}};
  std::vector<double> ridge{1, 1, 1, 1};
  heed::local_linear::options<float> how;
  const auto refused = [&](const std::vector<std::string>& must, const bending<float>& bend) {
    refused_by<float>([&](const auto& c) { run_decode<float>(c.call(), ridge, how, {}); },
                      [&](const auto& c) { return plan_decode<float>(c.call(), ridge, how, {}); }, good, must, bend);
    ridge.assign(4, 1), how = {};
  };
  using call = decode_to_bend<float>;
  refused({"ridge", "0"}, [&](call&) { ridge[2] = 0; });
  refused({"ridge", "3", "4"}, [&](call&) { ridge.pop_back(); });
  refused({"key_lengths"}, [&](call&) { how.mask = heed::key_lengths({5, 5}); });
  refused({"top_left"}, [&](call&) { how.align = heed::top_left; });
  refused({"tolerance", "0"}, [&](call&) { how.tolerance = 0; });
  refused({"keep_first", "13", "12"}, [](call& c) { c.cache.keep_first = 13; });
  const std::vector<std::int32_t> lengths{3, -1};
  refused({"length", "-1", "0"}, [&](call& c) { c.cache.lengths = lengths; });
}
