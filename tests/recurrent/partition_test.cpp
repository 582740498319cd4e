// SPDX-License-Identifier: BSD-3-Clause

// Tasks cover every sequence, head of the state, column and token once; chunk lengths of the cost model.

#include "heed/recurrent/partition.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/recurrent_problem.hpp"

namespace {

using heed::index_t;
namespace recurrent = heed::recurrent;
using heed_test::layout;
using heed_test::recurrent_problem;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

// How often each query's output and each column of a final state is written
template <class T> struct coverage {
  const recurrent::recurrence<T>& p;
  std::vector<int> outputs, states;

  explicit coverage(const recurrent::recurrence<T>& problem)
      : p(problem),
        outputs(at(p.q.extent(0) * p.states * p.e * p.q.extent(2)), 0),
        states(at(p.sequences() * p.states * p.e), 0) {}

  void add(const recurrent::chunk_task& x, index_t chunk) {
    const recurrent::causal_split split = p.split(x.sequence);
    const index_t queries = split.leading_queries, begin = recurrent::pairs_before(x.piece.begin, split.pairs, chunk),
                  end = recurrent::pairs_before(x.piece.end, split.pairs, chunk);
    REQUIRE((begin <= end && end <= split.pairs && (end % chunk == 0 || end == split.pairs)));
    if (x.piece.last()) REQUIRE(end == split.pairs);
    for (index_t h = x.state; h < x.state + x.states; ++h)
      for (index_t c = x.column; c < x.column + x.columns; ++c) {
        if (x.piece.first()) write(x.sequence, h, c, 0, queries);
        write(x.sequence, h, c, queries + begin, queries + end);
        if (!x.piece.last()) continue;
        write(x.sequence, h, c, queries + split.pairs, x.sequence.queries);
        ++states.at(at((x.sequence.number * p.states + h) * p.e + c));
      }
  }
  bool all_once() const {
    const auto once = [](int n) { return n == 1; };
    return std::all_of(outputs.begin(), outputs.end(), once) && std::all_of(states.begin(), states.end(), once);
  }

 private:
  void write(const recurrent::sequence& s, index_t head, index_t column, index_t first, index_t end) {
    for (index_t i = first; i < end; ++i)
      ++outputs.at(at(((s.batch * p.states + head) * p.e + column) * p.q.extent(2) + s.first_query + i));
  }
};

template <class T> void check_cut(const recurrent_problem<T>& x, index_t workers) {
  const auto p = x.problem();
  const recurrent::chunk_cut cut = recurrent::make_chunk_cut(p, workers);
  INFO("workers " << workers << " batch " << x.s.batch << " states " << x.s.states << " queries " << x.s.queries
                  << " keys " << x.s.keys << " d " << x.s.d << " e " << x.s.e << ": chunk " << cut.chunk << " blocks "
                  << cut.blocks << " pieces " << cut.pieces << " states " << cut.states);
  coverage<T> covered(p);
  for (index_t task = 0; task < cut.tasks; ++task) {
    const recurrent::chunk_task one = recurrent::task_at(p, cut, task);
    REQUIRE((one.states > 0 && one.states <= cut.states && one.columns > 0 && one.columns <= cut.columns));
    REQUIRE((one.column % heed::simd::width<T> == 0 && one.state + one.states <= p.states));
    covered.add(one, cut.chunk);
  }
  CHECK(covered.all_once());
  CHECK((workers > 1 || cut.blocks * cut.pieces == 1));
  CHECK((cut.states == 1 || cut.blocks * cut.pieces == 1));
}

// Causal attention of one head that many workers share, as long as nothing forbids it
template <class T> recurrent_problem<T> long_call() {
  heed::linear::options<T> options;
  options.feature = heed::feature::identity;
  return recurrent_problem<T>({.queries = 2000, .keys = 2000, .d = 64, .e = 64}, options);
}

}  // namespace

TEMPLATE_TEST_CASE("tasks cover all sequences, heads, columns and tokens once", "[partition]", float, double) {
  using T = TestType;
  heed_test::random_numbers random(12);
  const auto in = [&](index_t a, index_t b) { return a + random.below(static_cast<std::int32_t>(b - a + 1)); };
  for (int trial = 0; trial < 150; ++trial) {
    heed::linear::options<T> options;
    options.feature = random.below(3) == 0 ? heed::feature::taylor : heed::feature::identity;
    options.chunk = random.below(2) == 0 ? in(1, 90) : 0;
    options.align = random.below(3) == 0 ? heed::top_left : heed::bottom_right;
    const index_t kv_heads = in(1, 4), group = in(1, 3), queries = random.below(9) == 0 ? in(0, 3) : in(1, 400);
    recurrent_problem<T> x({.batch = in(1, 3), .heads = kv_heads * group, .kv_heads = kv_heads, .states = kv_heads,
                            .queries = queries, .keys = random.below(2) == 0 ? queries : in(0, 400), .d = in(1, 20),
                            .e = in(1, 90)},
                           options, random.below(2) == 0 ? layout::bshd : layout::bhsd);
    x.causal = random.below(4) != 0;
    x.options.final_state = {x.s1.view(), x.z1.view3()};
    if (random.below(2) == 0) x.options.initial_state = {x.s0.cview(), x.z0.view3()};
    check_cut(x, random.below(3) == 0 ? in(1, 3) : in(1, 70));
  }
}

TEMPLATE_TEST_CASE("tasks of packed sequences, and of key lengths", "[partition]", float, double) {
  using T = TestType;
  const std::vector<std::int32_t> queries{0, 5, 5, 205, 300}, keys{0, 7, 7, 107, 290}, lengths{200, 0, 63};
  for (const index_t workers : {1, 2, 9, 64}) {
    heed::linear::options<T> options;
    options.mask = heed::packed(queries, keys);
    recurrent_problem<T> x({.states = 1, .queries = 300, .keys = 290, .d = 16, .e = 40}, options, layout::bhsd, 4);
    x.options.final_state = {x.s1.view(), x.z1.view3()};
    check_cut(x, workers);
    heed::linear::options<T> padded;
    padded.mask = heed::key_lengths(lengths);
    recurrent_problem<T> y({.batch = 3, .states = 1, .queries = 200, .keys = 200, .d = 16, .e = 40}, padded);
    y.options.final_state = {y.s1.view(), y.z1.view3()};
    check_cut(y, workers);
  }
}

TEMPLATE_TEST_CASE("heads of token-major tensors are taken side by side where workers allow it", "[partition]", float,
                   double) {
  using T = TestType;
  heed::linear::options<T> options;
  options.feature = heed::feature::identity;
  constexpr index_t dim = 256 / static_cast<index_t>(sizeof(T));
  const heed_test::recurrent_shape s{.batch = 2, .heads = 16, .kv_heads = 16, .states = 16, .queries = 100,
                                     .keys = 100, .d = dim, .e = dim};
  const auto together = [&](layout in, index_t workers) {
    const recurrent_problem<T> x(s, options, in);
    return recurrent::states_together(x.problem(), 32, workers);
  };
  CHECK(together(layout::bhsd, 1) == 1);
  CHECK(together(layout::bshd, 1) == 8);   // as many as max_states_per_task
  CHECK(together(layout::bshd, 4) == 8);   // 4 groups for 4 workers
  CHECK(together(layout::bshd, 8) == 4);   // more workers, smaller groups
  CHECK(together(layout::bshd, 32) == 1);  // a worker for each head
  const recurrent_problem<T> x(s, options, layout::bshd);
  CHECK(recurrent::states_together(x.problem(), 1000, 1) == 1);  // rows of two heads outgrow the cache
  for (const index_t workers : {1, 3, 8}) check_cut(x, workers);
  heed_test::recurrent_shape odd = s;
  odd.heads = odd.kv_heads = odd.states = 13;  // 7 heads and 6
  const recurrent_problem<T> y(odd, options, layout::bshd);
  CHECK(recurrent::states_together(y.problem(), 32, 4) == 7);
  check_cut(y, 4);
}

TEMPLATE_TEST_CASE("no pieces where a state is read and written; no blocks either where z is", "[partition]", float,
                   double) {
  using T = TestType;
  const auto cut = [](const recurrent_problem<T>& x) { return recurrent::make_chunk_cut(x.problem(), 16); };
  recurrent_problem<T> x = long_call<T>();
  x.options.initial_state = {x.s0.cview(), x.z0.view3()}, x.options.final_state = {x.s1.view(), x.z1.view3()};
  x.options.normalize = false;
  CHECK(cut(x).pieces > 1);
  x.options.final_state.s = x.s0.view();  // the same s
  CHECK(cut(x).pieces == 1);
  CHECK(cut(x).blocks > 1);
  x.options.final_state = {x.s1.view(), x.z0.view3()};  // the same z, which nobody reads
  CHECK(cut(x).pieces > 1);
  x.options.normalize = true;  // and which all read
  CHECK(cut(x).pieces == 1);
  CHECK(cut(x).blocks == 1);
}

TEST_CASE("the cost model's chunk lengths", "[partition]") {
  constexpr index_t w = heed::simd::width<float>, lanes = heed::tile::max_lanes<float>;
  struct row {
    index_t d, features, e, by_16, by_8, by_4;  // of vectors of 16 floats in tiles of 64 lanes, 8 in 24, 4 in 8
  };
  const row rows[] = {{16, 16, 16, 16, 16, 16},         {64, 64, 64, 32, 24, 24},       {128, 128, 128, 32, 24, 32},
                      {256, 256, 256, 48, 48, 48},      {64, 64, 256, 32, 24, 32},      {32, 1057, 64, 128, 120, 120},
                      {264, 70000, 128, 512, 504, 512}, {1, 1, 1, 16, 8, 4},
                      {59, 59, 59, 32, 24, 24},         {159, 159, 159, 32, 48, 40}};
  for (const row& x : rows) {
    INFO("D " << x.d << " features " << x.features << " E " << x.e);
    const index_t chunk = recurrent::chunk_of<float>(x.d, x.features, x.e);
    if (w == 16 && lanes == 64) CHECK(chunk == x.by_16);
    if (w == 8 && lanes == 24) CHECK(chunk == x.by_8);
    if (w == 4 && lanes == 8) CHECK(chunk == x.by_4);
    CHECK(chunk % (chunk < lanes ? w : lanes) == 0);
  }
}

TEMPLATE_TEST_CASE("a chunk is never longer than the sequence, and as asked up to a bound", "[partition]", float,
                   double) {
  using T = TestType;
  recurrent_problem<T> x({.queries = 5, .keys = 9, .d = 64, .e = 64});
  CHECK(recurrent::make_chunk_cut(x.problem(), 1).chunk == 9);
  recurrent_problem<T> y = long_call<T>();
  for (const index_t asked : {1, 7, 1000}) {
    y.options.chunk = asked;
    CHECK(recurrent::make_chunk_cut(y.problem(), 1).chunk == asked);
  }
  y.options.chunk = 5000;
  CHECK(recurrent::make_chunk_cut(y.problem(), 1).chunk == 2000);
}

TEST_CASE("pieces of tokens that only read are equal; a call without sequences has no longest one", "[partition]") {
  recurrent::chunk_cut cut;
  cut.pieces = 4, cut.update_cost = 0;
  for (index_t n = 0; n <= 4; ++n) CHECK(cut.begin_of(n) == n * (recurrent::piece::whole / 4));
  CHECK(recurrent::token_time{.update = 0, .read = 0}.update_cost() <= 0);

  const std::vector<std::int32_t> none;
  heed::linear::options<float> options;
  options.align = heed::first_place(none);
  const recurrent_problem<float> x({.batch = 0, .queries = 5, .keys = 5}, options);
  CHECK(recurrent::longest_sequence(x.problem()).queries == 0);
}

TEMPLATE_TEST_CASE("the pieces of a cut begin in order and take equal time", "[partition]", float, double) {
  recurrent::chunk_cut cut;
  for (cut.pieces = 1; cut.pieces <= 8; ++cut.pieces)
    for (cut.update_cost = 0.05; cut.update_cost < 1; cut.update_cost += 0.1) {
      const auto place = [&](index_t n) { return double(cut.begin_of(n)) / double(recurrent::piece::whole); };
      CHECK(cut.begin_of(0) == 0);
      CHECK(cut.begin_of(cut.pieces) == recurrent::piece::whole);
      for (index_t n = 0; n < cut.pieces; ++n) {  // x_(n + 1) - x_n + a x_n = x_1
        CHECK(place(n) <= place(n + 1));
        CHECK(place(n + 1) - place(n) + cut.update_cost * place(n) == Approx(place(1)).margin(1e-5));
      }
    }
}
