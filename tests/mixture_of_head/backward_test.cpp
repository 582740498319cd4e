// SPDX-License-Identifier: BSD-3-Clause

// mixture_of_head::backward beside the reference: gates of every pattern, shapes, masks, options, layouts, numbers that
// are none, and the golden gradients.

#include <cmath>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/golden_gradients.hpp"
#include "support/golden_mixture.hpp"
#include "support/mixture_backward_case.hpp"
#include "support/softmax_masks.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr shape shapes[] = {{1, 4, 2, 150, 170, 20, 12}, {2, 6, 1, 37, 53, 16, 17}, {2, 4, 4, 3, 200, 9, 5}};

void fill_row(const buffer<float>& x, index_t b, index_t h, index_t i, float bad) {
  for (index_t d = 0; d < x.size()[3]; ++d) x(b, h, i, d) = bad;
}
template <class F> void each_row(const shape& s, F f) {
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) f(b, h, i);
}

template <class T> void golden() {
  const golden_file file("mixture_of_head");
  int cases = 0, gradients = 0;
  for (const std::string& name : file.cases()) {
    if (!has_call(file, name)) continue;
    INFO(name);
    golden_mixture<T> x(file, name);
    golden_gradients<T> d(file, name, {"dq", "dk", "dv", "dgates"});
    for (std::size_t i = 0; i < x.gates.data.size(); ++i)  // theirs is of every gate
      if (x.gates.data[i] == 0) d.expected("dgates").values.data[i] = 0;
    ++cases, gradients += d.count();
    const auto q = x.q.template cview<4>(), k = x.k.template cview<4>(), v = x.v.template cview<4>();
    run_mixture<T>(q, k, v, x.gates.template cview<3>(), x.o.template view<4>(), x.options, {});
    run_mixture_backward<T>({q, k, v, x.o.template cview<4>(), d.dout.template cview<4>()}, x.gates.template cview<3>(),
                            {.dq = d.template view<4>("dq"),
                             .dk = d.template view<4>("dk"),
                             .dv = d.template view<4>("dv"),
                             .dgates = d.template view<3>("dgates")},
                            x.options, {});
    CHECK(d.wrong() == "");
  }
  CHECK((cases == 14 && gradients == 56));
}

}  // namespace

TEST_CASE("gradients of mixture of head, gates of every pattern") {
  for (const shape& s : shapes)
    for (const gating how : gatings) {
      INFO(name_of(how));
      check_mixture_backward<float>(s, how);
      check_mixture_backward<float>(s, how, {.mask = heed::causal()});
      check_mixture_backward<double>(s, how, {.mask = heed::window(30, 2)});
    }
}

TEST_CASE("gradients of mixture of head, every shape") {
  const heed::plan plan = mixture_backward_case<float>({1, 2, 2, 1000, 1000, 64, 64}).mix_back_plan();
  REQUIRE(plan.ok());
  std::size_t turn = 0;
  for (const shape& s : shape_list(plan.query_tile, plan.key_tile)) {
    if (s.heads < s.kv_heads || turn++ % thinning != 0) continue;
    check_mixture_backward<float>(s, gatings[turn % std::size(gatings)],
                                  {.mask = turn % 3 == 0 ? heed::causal() : heed::mask{}});
  }
}

TEST_CASE("keys and values of which no head reads anything have gradients of 0") {
  for (const shape& s : {shape{2, 0, 2, 5, 6, 8, 9}, shape{2, 0, 0, 5, 6, 8, 9}})
    check_mixture_backward<float>(s, gating::random);
}

TEST_CASE("gradients of mixture of head under every mask and alignment") {
  const shape s{2, 4, 2, 37, 53, 12, 9};
  const mask_set set(s);
  std::size_t turn = 0;
  for (const auto& [mask_name, mask] : set.masks)
    for (const auto& [place_name, align] : set.alignments) {
      INFO(mask_name << ", " << place_name);
      check_mixture_backward<float>(s, gatings[turn++ % 6], {.mask = mask, .align = align});
    }
}

TEST_CASE("gradients of mixture of head under every option and pairs of them") {
  const shape s{2, 4, 2, 25, 60, 12, 9};
  const option_parts<float> parts(s);
  std::size_t turn = 0;
  for (const auto& first : parts.all)
    for (const auto& second : parts.all) {
      const bool alone = &first == &second;
      if (!alone && (!(first.kind < second.kind) || turn++ % (5 * thinning) != 0)) continue;
      INFO(first.name << ", " << second.name);
      check_mixture_backward<float>(
          s, gatings[turn % 6], parts.of(alone ? std::vector{&first} : std::vector{&first, &second}, parts.whole()));
    }
}

TEST_CASE("gradients of packed mixture of head") {
  packing p;
  p.add(0, 5), p.add(1, 1), p.add(40, 40), p.add(2, 0), p.add(33, 130), p.add(5, 3);
  const shape s{1, 4, 2, p.queries.back(), p.keys.back(), 12, 9};
  const option_parts<float> parts(s, &p);
  for (const auto& each : parts.all) {
    INFO(each.name);
    heed::softmax::options<float> how = parts.of({&each}, parts.whole());
    how.mask = how.mask & heed::packed(p.queries, p.keys);
    check_mixture_backward<float>(s, gating::random, how);
    if (each.name == "causal") check_mixture_backward<float>(s, gating::clustered, how);
  }
}

TEST_CASE("gradients of mixture of head in every layout: the same bits") {
  for (const shape& s : shapes) {
    mixture_backward_case<float> plain(s, gating::random, {.mask = heed::causal()});
    check_mixture(plain);
    for (std::size_t turn = 0; turn < std::size(output_layouts); ++turn) {
      const auto pick = [&](std::size_t step) {
        return output_layouts[(turn * step + step) % std::size(output_layouts)];
      };
      const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
      mixture_backward_case<float> x(s, gating::random, {.mask = heed::causal()}, in,
                                     {pick(3), pick(2), pick(1), pick(4), pick(5), pick(1)});
      check_mixture(x);
      CHECK(same_mixture_gradients(x, plain));
    }
  }
}

TEST_CASE("gates of 1: the gradients of softmax, and dgate is dout . o") {
  for (const shape& s : shapes) {
    mixture_backward_case<float> x(s, gating::all_ones, {.mask = heed::causal(), .sink_logits = 0.3});
    backward_case<float> y(s, {.mask = heed::causal(), .sink_logits = 0.3});
    check_mixture(x);
    y.wanted.dlse = {};
    y.wanted.dsink_logits = {};
    check(y);
    CHECK((same_bits(x.dq, y.dq) && same_bits(x.dk, y.dk) && same_bits(x.dv, y.dv)));
  }
}

TEST_CASE("closed gates: nothing of their rows is read, their gradients are 0") {
  for (const shape& s : shapes)
    for (const gating how : {gating::random, gating::sparse, gating::clustered, gating::none}) {
      INFO(to_string(s) << ", " << name_of(how));
      mixture_backward_case<float> clean(s, how, {.mask = heed::causal()}), x(s, how, {.mask = heed::causal()});
      check_mixture(clean);
      int wrong = 0;
      each_row(s, [&](index_t b, index_t h, index_t i) {
        if (x.gates(b, h, i) != 0) return;
        fill_row(x.q, b, h, i, not_a_number), fill_row(x.dout, b, h, i, inf);
        for (index_t d = 0; d < s.dim; ++d) wrong += clean.dq(b, h, i, d) != 0;
        wrong += clean.dgates(b, h, i) != 0;
      });
      x.mix(), x.mix_back();
      CHECK(same_mixture_gradients(x, clean));
      CHECK(wrong == 0);
    }
}

TEST_CASE("a subnormal gate counts as 0, a NaN gate as active; rows that see nothing have gradients of 0") {
  for (const shape& s : shapes) {
    mixture_backward_case<float> tiny(s, gating::all_ones), closed(s, gating::all_ones);
    const index_t row = s.queries / 2;
    tiny.gates(0, 1, row) = 1e-40f, closed.gates(0, 1, row) = 0;
    check_mixture(tiny), check_mixture(closed);
    CHECK(same_mixture_gradients(tiny, closed));

    mixture_backward_case<float> x(s, gating::random, {.mask = heed::causal(), .align = heed::top_left});
    x.gates(0, 1, row) = not_a_number;
    x.asked.dgates = {};  // its own gradient is a matter of how it is computed: as dout . o / gate, or without the gate
    x.mix(), x.mix_back();
    const verdict result = compare_mixture(x, x.want());
    INFO(result.where);
    CHECK(result.worst <= 1);
    CHECK(std::isnan(x.dq(0, 1, row, 0)));
  }
  mixture_backward_case<float> empty({1, 2, 1, 20, 5, 8, 8}, gating::all_ones, {.mask = heed::causal()});
  for (index_t i = 0; i < 15; ++i) fill_row(empty.dout, 0, 0, i, not_a_number), fill_row(empty.q, 0, 0, i, inf);
  empty.gates(0, 0, 3) = not_a_number;
  check_mixture(empty);
  bool finite = true;
  for (const buffer<float>* each : {&empty.dq, &empty.dk, &empty.dv, &empty.dgates})
    each->each([&](float element) { finite = finite && std::isfinite(element); });
  CHECK(finite);
}

TEST_CASE("mixture of head: a bad number in k, v, q or dout reaches what sees it, and nothing else") {
  std::size_t turn = 0;
  for (const shape& s : shapes) {
    const mask_set set(s);
    for (const auto& [mask_name, mask] : set.masks)
      for (int kind = 0; kind < 4; ++kind) {
        if (turn++ % thinning != 0) continue;
        INFO(mask_name << ", kind " << kind);
        mixture_backward_case<float> x(s, gating::random, {.mask = mask});
        random_numbers random(7);
        (kind == 0   ? x.k
         : kind == 1 ? x.v
         : kind == 2 ? x.q
                     : x.dout)
            .each([&](float& a) {
              if (random.below(200) == 0) a = not_a_number;
            });
        check_mixture(x);
      }
  }
}

TEST_CASE("tiny and huge gates") {
  for (const shape& s : shapes)
    for (const float size : {1e-30f, 1e-20f, 1e20f}) {
      INFO(to_string(s) << ", " << size);
      mixture_backward_case<float> x(s, gating::random);
      x.gates.each([&](float& gate) { gate *= size; });
      check_mixture(x);
    }
}

TEST_CASE("any choice of gradients of mixture of head has the bits of all of them") {
  for (const shape& s : shapes) {
    mixture_backward_case<float> all(s, gating::random, {.mask = heed::causal()});
    check_mixture(all);
    for (int choice = 0; choice < 16; ++choice) {
      mixture_backward_case<float> x(s, gating::random, {.mask = heed::causal()});
      if ((choice & 1) == 0) x.asked.dq = {};
      if ((choice & 2) == 0) x.asked.dk = {};
      if ((choice & 4) == 0) x.asked.dv = {};
      if ((choice & 8) == 0) x.asked.dgates = {};
      x.mix(), x.mix_back();
      const auto as_asked = [](const void* asked, const buffer<float>& got, const buffer<float>& full) {
        return asked != nullptr ? same_bits(got, full) : got.untouched();
      };
      CHECK(as_asked(x.asked.dq.data(), x.dq, all.dq));
      CHECK(as_asked(x.asked.dk.data(), x.dk, all.dk));
      CHECK(as_asked(x.asked.dv.data(), x.dv, all.dv));
      CHECK(as_asked(x.asked.dgates.data(), x.dgates, all.dgates));
    }
  }
}

TEST_CASE("golden gradients of mixture of head in float") { golden<float>(); }
TEST_CASE("golden gradients of mixture of head in double") { golden<double>(); }
