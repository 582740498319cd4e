// SPDX-License-Identifier: BSD-3-Clause

// Workspaces, overlaps and sizes: an error that names the numbers, before anything is read or written.

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "support/catch.hpp"
#include "support/every_call.hpp"
#include "support/messages.hpp"

using namespace heed_test;
using heed::index_t;

TEST_CASE("every verb: a workspace of one byte less is an error with both numbers; a misaligned one will do") {
  every_call calls;
  for (const one_call& call : calls.all()) {
    if (!call.plan) continue;
    INFO(call.name);
    const std::size_t bytes = call.plan({}).workspace_bytes;
    if (bytes == 0) continue;
    calls.forget();
    const std::vector<std::byte> before = call.written();
    std::vector<std::byte> memory(bytes + 64);
    const heed::context less{.workspace = {memory.data(), bytes - 1}};
    const std::string text = thrown_by([&] { call.run(less); });
    CHECK(text ==
          "context.workspace has " + std::to_string(bytes - 1) + " bytes, must have at least " + std::to_string(bytes));
    CHECK(text == call.plan(less).problem.data());
    CHECK(call.written() == before);
    call.run({});
    const std::vector<std::byte> right = call.written();
    for (const std::size_t at : {std::size_t{1}, std::size_t{3}, std::size_t{63}}) {
      calls.forget();
      call.run({.workspace = {memory.data() + at, bytes}});
      CHECK(call.written() == right);
    }
  }
}

TEST_CASE("an extent that is negative or above 2^31 - 1 is an error, whatever the strides") {
  float number = 0, out = 0;
  constexpr index_t least = std::numeric_limits<index_t>::min(), most = std::numeric_limits<index_t>::max();
  for (const index_t extent : {index_t{-1}, index_t{1} << 31, index_t{1} << 62, least, most})
    for (const index_t stride : {index_t{0}, least, most})
      for (int axis = 0; axis < 4; ++axis) {
        std::array<index_t, 4> n{1, 1, 1, 1}, steps{stride, stride, stride, 1};
        n[static_cast<std::size_t>(axis)] = extent;
        const heed::tensor_view<const float, 4> x(&number, n, steps);
        const heed::tensor_view<float, 4> o(&out, n, steps);
        INFO(extent << " on axis " << axis << ", stride " << stride);
        const auto refused = [&](const std::function<void()>& f) {
          const std::string text = thrown_by(f);
          INFO(text);
          CHECK(text.find(std::to_string(extent)) != std::string::npos);
        };
        const std::vector<double> slopes{0.5};
        refused([&] { heed::softmax::forward(x, x, x, o); });
        refused([&] { heed::linear::forward(x, x, x, o); });
        refused([&] { heed::lightning::forward(x, x, x, slopes, o); });
        refused([&] { heed::local_linear::forward(x, x, x, 1.0, o); });
        refused([&] { heed::convert(x, o); });
        CHECK(out == 0);
      }
}

TEST_CASE("strides of axes with one element are not used, and a result may be far away") {
  constexpr index_t least = std::numeric_limits<index_t>::min(), most = std::numeric_limits<index_t>::max();
  float q = 1, k = 2, v = 3, o = 0;
  for (const index_t far : {least, most}) {
    const auto at = [far](float* p) { return heed::tensor_view<float, 4>(p, {1, 1, 1, 1}, {far, far, far, 1}); };
    o = 0;
    heed::softmax::forward(at(&q), at(&k), at(&v), at(&o));
    CHECK(o == 3);
    o = 0;
    heed::local_linear::forward(at(&q), at(&k), at(&v), 1.0, at(&o));
    CHECK(o == 3);
  }
}

TEST_CASE("more than 2^31 elements in strides of 0: 3 * 2^30 scores' worth of keys of one row") {
  constexpr index_t H = 1 << 16, D = 1 << 10, M = 64;  // 2^32 elements of k and of v, 2^16 of memory
  std::vector<float> k(static_cast<std::size_t>(M * D), 1), v(static_cast<std::size_t>(M * 2)), q(1 << 10, 1);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 2 + 5);
  std::vector<float> o(2);
  const heed::tensor_view<const float, 4> one_q(q.data(), {1, 1, 1, D}, {0, 0, 0, 1});
  const heed::tensor_view<const float, 4> all_k(k.data(), {1, 1, M, D}, {0, 0, D, 1}),
      all_v(v.data(), {1, 1, M, 2}, {0, 0, 2, 1});
  heed::softmax::forward(one_q, all_k, all_v, heed::bhsd(o.data(), 1, 1, 1, 2));
  CHECK((o[0] == Approx(5) && o[1] == Approx(6)));
  const auto big = heed::tensor_view<const float, 4>(k.data(), {H, 64, M, D}, {0, 0, D, 1});
  CHECK(heed::softmax::plan_forward(big, big, big,
                                    heed::tensor_view<float, 4>(o.data(), {H, 64, M, D}, {64 * M * D, M * D, D, 1}))
            .ok());
}
