// SPDX-License-Identifier: BSD-3-Clause

// softmax::forward of 16-bit tensors beside the reference: every mix of types, shape, layout, mask and option.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/half_case.hpp"
#include "support/messages.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();

// Queries in lanes with several key tiles, few rows, one row, more key/value heads.
constexpr shape some_shapes[] = {
    {2, 4, 2, 37, 53, 20, 12}, {1, 1, 1, 70, 300, 33, 17}, {2, 7, 1, 1, 140, 24, 33}, {1, 2, 6, 3, 41, 9, 5}};

}  // namespace

TEST_CASE("16 bit: every mix of float, bf16 and f16") {
  each_mix([](const type_mix& types) {
    for (const shape& s : some_shapes)
      for (const bool causal : {false, true}) check(types, s, {.mask = causal ? heed::causal() : heed::mask{}});
  });
}

TEST_CASE("16 bit: bf16 and f16, the shapes that all kernels share") {
  std::size_t turn = 0;
  const heed::plan plan = half_case(type_mix::all(stored::bf16), {1, 1, 1, 1000, 1000, 64, 64}).plan();
  REQUIRE(plan.ok());
  for (const shape& s : shape_list(plan.query_tile, plan.key_tile))
    for (const stored type : half_types)
      if (turn++ % thinning == 0)
        check(type_mix::all(type), s, {.mask = turn / 3 % 2 == 0 ? heed::causal() : heed::mask{}});
}

TEST_CASE("16 bit: 1 to 17 rows, and head dims around the vectors") {
  for (const stored type : half_types) {
    for (index_t n = 1; n <= 17; ++n)
      check(type_mix::all(type), {1, 2, 2, n, 129, 16, 24}, {.mask = heed::window(100)});
    for (index_t d = 1; d <= 35; ++d) {
      check(type_mix::all(type), {1, 1, 1, 3, 20, d, 36 - d});
      check(type_mix::all(type), {1, 1, 1, 33, 20, d, 36 - d});
    }
  }
  check(type_mix::all(stored::bf16), {1, 1, 1, 40, 70, 300, 500});
  check(type_mix::all(stored::f16), {1, 1, 1, 2, 70, 1031, 300});
  check(type_mix::all(stored::bf16), {1, 1, 1, 3, 20000 / static_cast<index_t>(thinning), 64, 64});
}

TEST_CASE("16 bit: every mask under every alignment") {
  std::size_t turn = 0;
  for (const shape& s : {some_shapes[0], shape{3, 7, 1, 2, 40, 12, 8}, shape{1, 2, 2, 70, 300, 16, 24}}) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (const auto& [place_name, align] : set.alignments)
        for (const stored type : half_types) {
          if (turn++ % thinning != 0) continue;
          INFO(mask_name << ", " << place_name);
          check(type_mix::all(type), s, {.mask = mask, .align = align});
        }
  }
}

TEST_CASE("16 bit: every option, and pairs of them") {
  std::size_t turn = 0;
  for (const shape& s : {some_shapes[0], shape{1, 4, 1, 2, 150, 20, 12}}) {
    const option_parts<float> parts(s);
    const auto run = [&](const std::vector<const option_parts<float>::part*>& chosen) {
      INFO(chosen.front()->name << ", " << chosen.back()->name);
      check(type_mix::all(half_types[turn % 2]), s, parts.of(chosen, parts.whole()));
    };
    for (const auto& first : parts.all)
      for (const auto& second : parts.all)
        if (first.kind != second.kind && ++turn % (3 * thinning) == 0) run({&first, &second});
    for (const auto& part : parts.all) run({&part}), ++turn, run({&part});
  }
}

TEST_CASE("16 bit: head counts in both directions") {
  std::size_t turn = 0;
  for (const auto& [heads, kv_heads] :
       std::vector<std::array<index_t, 2>>{{1, 1}, {6, 1}, {6, 2}, {1, 6}, {2, 6}, {14, 2}, {70, 1}})
    for (const index_t n : {1, 5, 40})
      check(type_mix::all(half_types[turn++ % 2]), {2, heads, kv_heads, n, 33, 12, 10}, {.mask = heed::causal()});
}

static void check_packed(const std::vector<std::array<index_t, 2>>& sizes, index_t value_dim) {
  packing p;
  for (const auto& [n, m] : sizes) p.add(n, m);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 12, value_dim};
  for (const stored type : half_types) {
    half_case x(type_mix::all(type), s, {.mask = heed::causal() & heed::packed(p.queries, p.keys)});
    check(x);
    for (std::size_t i = 0; i + 1 < p.queries.size(); ++i) {
      const index_t from = p.queries[i], key = p.keys[i], n = p.queries[i + 1] - from, m = p.keys[i + 1] - key;
      half_case one(type_mix::all(type), {1, 4, 2, n, m, 12, value_dim}, {.mask = heed::causal()});
      const auto copy = [](const buffer<float>& to, const buffer<float>& of, index_t first) {
        for (index_t h = 0; h < to.size()[1]; ++h)
          for (index_t r = 0; r < to.size()[2]; ++r)
            for (index_t d = 0; d < to.size()[3]; ++d) to(0, h, r, d) = of(0, h, first + r, d);
      };
      copy(one.q, x.q, from), copy(one.k, x.k, key), copy(one.v, x.v, key);
      one.forward();
      auto part = buffer<float>::output(one.o.size());
      copy(part, x.o, from);
      CHECK(same_bits(part, one.o));
    }
  }
}

TEST_CASE("16 bit: packed sequences have the bits of calls of their own") {
  check_packed({{0, 5}, {1, 1}, {40, 40}, {2, 0}, {33, 130}, {5, 3}}, 9);
  check_packed({{100, 300}, {0, 256}, {70, 1}, {17, 600}}, 16);  // long enough for a unit to share what it packs
}

TEST_CASE("16 bit: scratch follows shapes, not packed offsets, and stays small where keys are few") {
  const auto bytes = [](const shape& s, const heed::softmax::options<float>& how = {}) {
    return half_case(type_mix::all(stored::bf16), s, how).plan().workspace_bytes;
  };
  const auto packed_bytes = [&](const std::vector<std::int32_t>& offsets) {
    return bytes({1, 1, 1, 400, 400, 32, 32}, {.mask = heed::packed(offsets, offsets)});
  };
  CHECK(packed_bytes({0, 400, 400, 400, 400}) == packed_bytes({0, 100, 200, 300, 400}));
  CHECK(packed_bytes({0, 64, 128, 336, 400}) == packed_bytes({0, 65, 128, 336, 400}));
  CHECK(bytes({64, 2, 2, 100, 4, 16, 16}) < 2 * bytes({1, 2, 2, 100, 4, 16, 16}));
}

// Inputs end where their memory ends: under the address sanitizer a byte read behind the last row is an error.
TEST_CASE("16 bit: every layout of every tensor, off by an element: the same bits") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      const heed::softmax::options<float> how{.mask = heed::causal()};
      half_case plain(type_mix::all(type), s, how);
      check(plain);
      for (std::size_t turn = 0; turn < std::size(output_layouts) * 3; ++turn) {
        const auto pick = [&](std::size_t step) {
          return output_layouts[(turn * step + step) % std::size(output_layouts)];
        };
        const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
        INFO(name_of(in.q) << ", " << name_of(in.k) << ", " << name_of(in.v) << " -> " << name_of(in.o) << ", skew "
                           << in.skew);
        half_case x(type_mix::all(type), s, how, in);
        if (turn < 3) check(x);
        x.forward();
        CHECK(same_results(x, plain));
        CHECK(x.at.o.canaries_alive());
      }
    }
}

TEST_CASE("16 bit: rows far apart, as token-major tensors of many heads have them") {
  for (const stored type : half_types)
    for (const index_t n : {2, 40}) {
      const shape s{1, 24, 24, n, 300, 64, 64};  // 3 KiB from row to row
      half_case plain(type_mix::all(type), s),
          far(type_mix::all(type), s, {}, {layout::bshd, layout::bshd, layout::bshd, layout::bshd});
      check(plain), check(far);
      CHECK(same_results(plain, far));
    }
  half_case large(type_mix::all(stored::bf16), {1, 1, 1, 40, 2500, 64, 64});  // more than is sure to be in a cache
  check(large);
}

TEST_CASE("16 bit: hidden keys hold anything, without effect; visible ones reach the output") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      const std::vector<std::int32_t> lengths(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.keys - 7));
      const heed::softmax::options<float> how{.mask = heed::key_lengths(lengths)};
      half_case clean(type_mix::all(type), s, how);
      check(clean);
      for (const float bad : {not_a_number, inf, -inf}) {
        half_case x(type_mix::all(type), s, how);
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.kv_heads; ++h)
            for (index_t j = s.keys - 7; j < s.keys; ++j)
              for (index_t d = 0; d < s.dim; ++d) x.k(b, h, j, d) = x.v(b, h, j, d % s.value_dim) = bad;
        x.forward();
        CHECK(same_results(x, clean));
        half_case seen(type_mix::all(type), s,
                       {.mask = heed::causal()});  // in a value that some rows see and others do not
        seen.v(0, 0, s.keys / 2, s.value_dim - 1) = bad;
        check(seen);
        half_case key(type_mix::all(type), s);
        key.q(0, 0, 0, 0) = bad;
        key.forward();
        CHECK(std::isnan(key.o(0, 0, 0, 0)));
      }
    }
}

TEST_CASE("16 bit: a result beyond f16 is infinite, a bf16 one is not") {
  for (const index_t n : {2, 40}) {
    half_case wide({stored::f32, stored::f32, stored::bf16}, {1, 1, 1, n, 9, 8, 8});
    half_case narrow({stored::f32, stored::f32, stored::f16}, {1, 1, 1, n, 9, 8, 8});
    wide.v.fill(1e5f), narrow.v.fill(-1e5f);
    wide.forward(), narrow.forward();
    CHECK(wide.o(0, 0, n - 1, 7) == static_cast<float>(heed::bf16_t(1e5f)));
    CHECK(narrow.o(0, 0, n - 1, 7) == -inf);
  }
}

// Subnormal floats, and with them bf16 numbers, count as 0; subnormal f16 numbers are normal floats.
TEST_CASE("16 bit: subnormal numbers of bf16 count as 0, those of f16 are exact") {
  for (const index_t n : {1, 40})
    for (const index_t m : {1, 2, 70}) {
      half_case zero(type_mix::all(stored::bf16), {1, 1, 1, n, m, 20, 24});
      zero.v.fill(std::ldexp(1.0f, -130));
      check(zero);
      CHECK(zero.o(0, 0, n - 1, 3) == 0);
      for (const float tiny : {0x1p-24f, 0x1.8p-23f, 0x1.ff8p-15f}) {
        half_case kept(type_mix::all(stored::f16), {1, 1, 1, n, m, 20, 24});
        kept.v.fill(tiny);
        check(kept);
        if (m <= 2) CHECK(kept.o(0, 0, n - 1, 3) == tiny);
      }
      half_case keys(type_mix::all(stored::f16), {1, 1, 1, n, m, 20, 24}, {.scale = 0x1p22});  // their scores count
      for (index_t d = 0; d < 20; ++d)
        for (index_t j = 0; j < m; ++j) keys.k(0, 0, j, d) *= 0x1p-23f;
      check(keys);
      half_case small(type_mix::all(stored::bf16), {1, 1, 1, n, m, 20, 24}, {.scale = 0x1p100});
      small.k.fill(std::ldexp(1.0f, -128));
      check(small);  // all scores 0
    }
}

TEST_CASE("16 bit: the same bits for any executor, and in a workspace of the planned size") {
  for (const stored type : half_types)
    for (const shape& s : {shape{2, 4, 2, 150, 130, 20, 12}, {2, 8, 2, 1, 300, 16, 16}, {1, 2, 6, 70, 90, 8, 8}}) {
      const heed::softmax::options<float> how{.mask = heed::causal()};
      half_case serial(type_mix::all(type), s, how);
      check(serial);
      for (index_t workers = 1; workers <= 4; ++workers) {
        test_executor executor(workers, order::shuffled, workers > 2);
        half_case x(type_mix::all(type), s, how);
        const heed::context where{.executor = executor};
        const std::size_t bytes = x.plan(where).workspace_bytes;
        std::vector<std::byte> memory(bytes + 64, std::byte{0x5a});
        x.forward({.executor = executor, .workspace = std::span(memory).first(bytes)});
        CHECK(same_results(x, serial));
        CHECK(std::all_of(memory.begin() + static_cast<index_t>(bytes), memory.end(),
                          [](std::byte b) { return b == std::byte{0x5a}; }));
      }
      half_case x(type_mix::all(type), s, how);
      std::vector<std::byte> small(x.plan().workspace_bytes - 1);
      CHECK_FALSE(thrown_by([&] { x.forward({.workspace = small}); }).empty());
      CHECK(x.at.o.untouched());
    }
}

TEST_CASE("16 bit: the plan of a 16-bit call") {
  each_mix([](const type_mix& types) {
    for (const index_t n : {2, 100}) {
      const half_case x(types, {1, 2, 1, n, 90, 16, 16});
      const heed::plan plan = x.plan(), as_float = half_case(type_mix::all(stored::f32), x.s).plan();
      INFO(to_string(types) << ": " << plan.path << ", " << plan.why.data());
      REQUIRE(plan.ok());
      CHECK(std::string(plan.isa) == as_float.isa);
      if (!types.all_bf16()) CHECK(std::string(plan.path) == as_float.path);
      CHECK(!std::string(plan.why.data()).empty());
    }
  });
}

TEST_CASE("16 bit: path and why name the unit that HEED_UNITS leaves") {
  const char* const set = std::getenv("HEED_UNITS");
  const std::string units = set == nullptr ? "" : set;
  const shape s{1, 2, 1, 100, 90, 16, 16};
  const heed::plan plan = half_case(type_mix::all(stored::bf16), s).plan();
  const std::string path = plan.path, why = plan.why.data();
  INFO(path << ", " << why);
  if (units == "emulated-amx") {
    CHECK(path == "softmax: queries in lanes on AMX emulated");
    CHECK(why.find("; AMX emulated, as HEED_UNITS says") != std::string::npos);
  } else if (units == "dot" && path == "softmax: queries in lanes on bf16 dot products") {
    CHECK(why.find("; bf16 dot products, as HEED_UNITS says") != std::string::npos);
  } else if (units == "no-amx,no-dot") {
    CHECK(path == half_case(type_mix::all(stored::f32), s).plan().path);
  } else {
    CHECK((sums_in_float(plan) || path.find("softmax: queries in lanes on ") == 0));
  }
}

TEST_CASE("16 bit: packed offsets of a prepared call may move") {
  const shape s{1, 1, 1, 400, 400, 32, 32};
  const std::vector<std::vector<std::int32_t>> cuts{{0, 400, 400, 400}, {0, 100, 200, 400}, {0, 101, 336, 400}};
  for (const auto& from : cuts)
    for (const auto& to : cuts) {
      std::vector<std::int32_t> offsets = from;
      half_case x(type_mix::all(stored::bf16), s, {.mask = heed::packed(offsets, offsets)}),
          plain(type_mix::all(stored::bf16), s, {.mask = heed::packed(to, to)});
      run_stored_prepared({x.call(), x.call()}, x.options, {}, [&](std::size_t i) {
        if (i == 1) std::copy(to.begin(), to.end(), offsets.begin());
      });
      x.at.o.copy_to(x.o), plain.forward();
      CHECK(same_bits(x.o, plain.o));
    }
}

TEST_CASE("16 bit: prepared calls have the bits of forward; memory of another type is refused") {
  for (const stored type : half_types)
    for (const shape& s : some_shapes) {
      const heed::softmax::options<float> how{.mask = heed::causal()};
      half_case first(type_mix::all(type), s, how), second(type_mix::all(type), s, how, {}, 2),
          plain(type_mix::all(type), s, how, {}, 2);
      run_stored_prepared({first.call(), second.call(), first.call()}, second.options, {});
      second.at.o.copy_to(second.o), first.at.o.copy_to(first.o);
      plain.forward();
      CHECK(same_bits(second.o, plain.o));
      half_case again(type_mix::all(type), s, how);
      again.forward();
      CHECK(same_bits(first.o, again.o));
    }
  const half_case a(type_mix::all(stored::bf16), some_shapes[0]),
      q({stored::f16, stored::bf16, stored::bf16}, some_shapes[0]),
      k({stored::bf16, stored::f16, stored::bf16}, some_shapes[0]),
      o({stored::bf16, stored::bf16, stored::f32}, some_shapes[0]);
  const auto said = [&](const half_case& other) {
    return thrown_by([&] { run_stored_prepared({a.call(), other.call()}, a.options, {}); });
  };
  CHECK(said(a).empty());
  CHECK(said(q) == "q holds f16, was prepared with bf16");
  CHECK(said(k) == "k holds f16, was prepared with bf16");
  CHECK(said(o) == "o holds float, was prepared with bf16");
}

TEST_CASE("16 bit: o in 16 bit is the o of the same call in float, rounded") {
  for (const stored q : all_stored)
    for (const stored kv : all_stored)
      for (const shape& s : some_shapes) {
        half_case full({q, kv, stored::f32}, s, {.mask = heed::causal()});
        full.forward();
        for (const stored type : half_types) {
          half_case x({q, kv, type}, s, {.mask = heed::causal()});
          x.forward();
          bool all = same_bits(x.lse, full.lse);
          index_t i = 0;
          std::vector<float> expected;
          full.o.each([&](float& each) { expected.push_back(rounded(type, each)); });
          x.o.each([&](float& each) { all = all && each == expected[static_cast<std::size_t>(i++)]; });
          INFO(to_string(x.at.types) << ", " << to_string(s));
          CHECK(all);
        }
      }
}

TEST_CASE("16 bit: order of keys, powers of two and constants in v") {
  for (const stored type : half_types)
    for (const shape& s : {shape{1, 2, 1, 40, 150, 20, 12}, {1, 2, 1, 3, 150, 20, 12}}) {
      half_case x(type_mix::all(type), s), turned(type_mix::all(type), s), scaled(type_mix::all(type), s),
          constant(type_mix::all(type), s);
      check(x);
      for (index_t j = 0; j < s.keys; ++j) {
        for (index_t d = 0; d < s.dim; ++d) turned.k(0, 0, j, d) = x.k(0, 0, s.keys - 1 - j, d);
        for (index_t e = 0; e < s.value_dim; ++e) {
          turned.v(0, 0, j, e) = x.v(0, 0, s.keys - 1 - j, e);
          scaled.v(0, 0, j, e) = 8 * x.v(0, 0, j, e);
        }
      }
      turned.forward(), scaled.forward();
      const exactness how = x.exact(x.plan());
      verdict order, scale, same;
      const tolerance rounding = tolerance_of<float>(s.keys, s.dim);
      for (index_t h = 0; h < 2; ++h)
        for (index_t n = 0; n < s.queries; ++n)
          for (index_t e = 0; e < s.value_dim; ++e) {
            const double o = x.o(0, h, n, e),
                         error = 3 * (rounding.eps * (rounding.c0 + 20 * rounding.c1) + how.weights);
            order.add(turned.o(0, h, n, e), o, 2 * how.o.around(o, error), "reversed keys", 0, h, n, e);
            scale.add(scaled.o(0, h, n, e), 8 * o, 1e-300, "8 v", 0, h, n, e);
          }
      constant.v.fill(1.25f), constant.forward();
      constant.o.each([&](float& each) { same.add(each, 1.25, how.o.around(1.25, 1e-5), "constant", 0, 0, 0, 0); });
      INFO(to_string(x.at.types) << ": " << order.where << "; " << scale.where << "; " << same.where);
      CHECK((order.worst <= 1 && scale.worst <= 1 && same.worst <= 1));
    }
}

TEST_CASE("16 bit: errors of a 16-bit call are thrown before anything is written, and the plan says them") {
  const half_case x(type_mix::all(stored::f16), some_shapes[0]);
  stored_call bad = x.call();
  bad.v = heed::tensor_view<const heed::f16_t, 4>(std::get<1 + 1>(bad.v).data(), {2, 2, 52, 12}, {1248, 624, 12, 1});
  const std::string text = thrown_by([&] { run_stored(bad, x.options, {}); });
  INFO(text);
  CHECK(text.find("52") != std::string::npos);
  CHECK(text == plan_stored(bad, x.options, {}).problem.data());
  CHECK(x.at.o.untouched());
}
