// SPDX-License-Identifier: BSD-3-Clause

// The result does not depend on how tensors lie in memory: the same bits in every layout.

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/softmax_case.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{2, 4, 2, 37, 53, 20, 12}, {2, 2, 1, 3, 41, 9, 5}, {2, 1, 3, 70, 19, 16, 17}};

}  // namespace

TEST_CASE("every layout of every tensor: the reference's result, and the same bits") {
  for (const shape& s : shapes) {
    softmax_case<float> plain(s, {.mask = heed::causal()});
    check(plain);
    for (std::size_t turn = 0; turn < std::size(output_layouts) * 3; ++turn) {
      const auto pick = [&](std::size_t step) {
        return output_layouts[(turn * step + step) % std::size(output_layouts)];
      };
      const layouts in{pick(1), pick(2), pick(3), pick(5), pick(4), static_cast<index_t>(turn % 4)};
      INFO(name_of(in.q) << ", " << name_of(in.k) << ", " << name_of(in.v) << " -> " << name_of(in.o) << ", skew "
                         << in.skew);
      softmax_case<float> x(s, {.mask = heed::causal()}, in);
      check(x);
      const bool same = same_bits(x.o, plain.o) && same_bits(x.lse, plain.lse);
      CHECK(same);
    }
  }
}

TEST_CASE("double in every layout") {
  for (const layout how : output_layouts)
    check<double>(shapes[0], {.mask = heed::causal()}, {how, how, how, how, how, 1});
}

TEST_CASE("misaligned by any number of elements") {
  for (const shape& s : shapes)
    for (index_t skew = 0; skew < 16; ++skew) check<float>(s, {}, {.skew = skew});
}

TEST_CASE("batches or heads that share memory through stride 0") {
  for (const layout shared : {layout::shared_batch, layout::shared_heads})
    for (const shape& s : shapes) {
      check<float>(s, {}, {.q = shared});
      check<float>(s, {.mask = heed::causal()}, {.k = shared, .v = shared});
      check<float>(s, {}, {.q = shared, .k = shared, .v = shared, .o = layout::bshd});
    }
}

TEST_CASE("the stride of an axis with one entry is not read") {
  constexpr index_t far = std::numeric_limits<index_t>::max();
  const auto strange = [](auto view) {
    return decltype(view)(view.data(), {view.extent(0), view.extent(1), view.extent(2), view.extent(3)},
                          {far, far, view.extent(2) == 1 ? -far : view.stride(2), 1});
  };
  const std::int32_t zero = 0;
  const std::vector<std::int32_t> zeros(40, 0);
  for (const shape& s : {shape{1, 1, 1, 1, 1, 4, 4}, {1, 1, 1, 1, 40, 9, 5}, {1, 1, 1, 40, 1, 9, 5}}) {
    const heed::tensor_view<const std::int32_t, 2> query_ids(s.queries == 1 ? &zero : zeros.data(), {1, s.queries},
                                                             {far, s.queries == 1 ? far : 1});
    const heed::tensor_view<const std::int32_t, 2> key_ids(s.keys == 1 ? &zero : zeros.data(), {1, s.keys},
                                                           {far, s.keys == 1 ? far : 1});
    for (const heed::mask& mask : {heed::mask(), heed::causal(), heed::segments(query_ids, key_ids)}) {
      softmax_case<float> plain(s, {.mask = mask}), x(s, {.mask = mask});
      x.v(0, 0, 0, 1) = plain.v(0, 0, 0, 1) = std::numeric_limits<float>::infinity();
      plain.forward();
      x.options.lse = {x.options.lse.data(), {1, 1, s.queries}, {far, far, s.queries == 1 ? far : 1}};
      run_forward<float>(strange(x.q.cview()), strange(x.k.cview()), strange(x.v.cview()), strange(x.o.view()),
                         x.options, {});
      CHECK((same_bits(x.o, plain.o) && same_bits(x.lse, plain.lse)));
    }
  }
}

TEST_CASE("k and v may be the same memory") {
  softmax_case<float> x({1, 2, 1, 20, 30, 16, 16});
  for (index_t j = 0; j < 30; ++j)
    for (index_t d = 0; d < 16; ++d) x.k(0, 0, j, d) = x.v(0, 0, j, d);
  check(x);
  const auto o = buffer<float>::output(x.o.size());
  run_forward<float>(x.q.cview(), x.v.cview(), x.v.cview(), o.view(), {}, {});
  CHECK(same_bits(o, x.o));
}

TEST_CASE("head counts in both directions") {
  for (const auto& [heads, kv_heads] :
       std::vector<std::array<index_t, 2>>{{1, 1}, {6, 1}, {6, 2}, {6, 3}, {1, 6}, {2, 6}, {3, 6}, {14, 2}}) {
    for (const index_t n : {1, 5, 40}) check<float>({2, heads, kv_heads, n, 33, 12, 10}, {.mask = heed::causal()});
    check<double>({1, heads, kv_heads, 9, 33, 12, 10});
  }
  for (const index_t heads : {70, 130})  // a group that fills more than the lanes of a tile
    for (const index_t n : {1, 2, 5}) check<float>({1, 2 * heads, 2, n, 40, 12, 10}, {.mask = heed::causal()});
}

TEST_CASE("the factories' views") {
  constexpr index_t seq = 21, heads = 4, kv_heads = 2, dim = 16, width = (heads + 2 * kv_heads) * dim;
  random_numbers random(5);
  std::vector<float> qkv(static_cast<std::size_t>(2 * seq * width));
  for (float& x : qkv) x = static_cast<float>(random.normal());
  const auto [q, k, v] = heed::packed_qkv(static_cast<const float*>(qkv.data()), 2, seq, heads, kv_heads, dim);

  softmax_case<float> plain({2, heads, kv_heads, seq, seq, dim, dim}, {.mask = heed::causal()});
  const auto copy = [](const buffer<float>& to, const input<float>& from) {
    for (index_t b = 0; b < to.size()[0]; ++b)
      for (index_t h = 0; h < to.size()[1]; ++h)
        for (index_t i = 0; i < to.size()[2]; ++i)
          for (index_t d = 0; d < to.size()[3]; ++d)
            to(b, h, i, d) = from.data()[b * from.stride(0) + h * from.stride(1) + i * from.stride(2) + d];
  };
  copy(plain.q, q);
  copy(plain.k, k);
  copy(plain.v, v);
  check(plain);

  const auto o = buffer<float>::output({2, heads, seq, dim}, layout::bshd);
  run_forward<float>(q, k, v, o.view(), {.mask = heed::causal()}, {});
  CHECK(same_bits(o, plain.o));

  // The first 15 rows, as slices of longer tensors.
  softmax_case<float> first({2, heads, kv_heads, 15, 15, dim, dim}, {.mask = heed::causal()});
  copy(first.q, heed::slice(q, 2, 0, 15));
  copy(first.k, heed::slice(k, 2, 0, 15));
  copy(first.v, heed::slice(v, 2, 0, 15));
  check(first);
  run_forward<float>(heed::slice(q, 2, 0, 15), heed::slice(k, 2, 0, 15), heed::slice(v, 2, 0, 15),
                     heed::slice(o.view(), 2, 0, 15), {.mask = heed::causal()}, {});
  for (index_t i = 0; i < 15; ++i) CHECK(o(1, 3, i, 7) == first.o(1, 3, i, 7));
}

TEST_CASE("Eigen matrices, maps and blocks as views") {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix q(21, 16), k(33, 16), v(33, 24), o = matrix::Zero(21, 24);
  softmax_case<float> plain({1, 1, 1, 21, 33, 16, 24});
  check(plain);
  for (index_t d = 0; d < 24; ++d)
    for (index_t i = 0; i < 33; ++i) {
      if (i < 21 && d < 16) q(i, d) = plain.q(0, 0, i, d);
      if (d < 16) k(i, d) = plain.k(0, 0, i, d);
      v(i, d) = plain.v(0, 0, i, d);
    }
  const Eigen::MatrixXf qc = q.transpose(), kc = k.transpose(),
                        vc = v.transpose();  // column-major: its transpose has unit last stride
  Eigen::MatrixXf oc(24, 21);
  Eigen::VectorXf lse(21);
  run_forward<float>(q, k, v, o, {.lse = lse}, {});
  run_forward<float>(qc.transpose(), kc.transpose(), vc.transpose(), oc.transpose(), {}, {});
  bool same = true;
  for (index_t i = 0; i < 21; ++i) {
    same = same && lse(i) == plain.lse(0, 0, i);
    for (index_t e = 0; e < 24; ++e) same = same && o(i, e) == plain.o(0, 0, i, e) && oc(e, i) == o(i, e);
  }
  CHECK(same);

  matrix wide = matrix::Constant(40, 60, 7);  // into a block: nothing around it changes
  run_forward<float>(q, k, v, wide.block(3, 5, 21, 24), {}, {});
  CHECK(wide.block(3, 5, 21, 24) == o);
  CHECK((wide.array() == 7).count() == 40 * 60 - 21 * 24);
}
