// SPDX-License-Identifier: BSD-3-Clause

// Workspaces, overlaps and sizes: an error that names the numbers, before anything is read or written.

#include <sys/mman.h>

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

// Five rows of k in 2^33 numbers of address space, of which few pages have memory
TEST_CASE("rows more than 2^31 elements apart") {
  constexpr index_t apart = (index_t{1} << 31) + 16, D = 8;
  constexpr std::size_t bytes = static_cast<std::size_t>(4 * apart + D) * sizeof(float);
  void* const region = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) {
    WARN("no address space of 32 GiB here: not tested");
    return;
  }
  float* const far = static_cast<float*>(region);
  std::vector<float> near(5 * D), v(5 * D), q(D, 1), o(D), expected(D);
  for (index_t j = 0; j < 5; ++j)
    for (index_t d = 0; d < D; ++d) {
      const auto i = static_cast<std::size_t>(j * D + d);
      far[j * apart + d] = near[i] = static_cast<float>(j) / 4;
      v[i] = static_cast<float>(i % 7);
    }
  const heed::tensor_view<const float, 4> k(far, {1, 1, 5, D}, {0, 0, apart, 1});
  const auto row = [](std::vector<float>& x) { return heed::bhsd(x.data(), 1, 1, 1, D); };
  const auto rows = [](std::vector<float>& x) { return heed::bhsd(x.data(), 1, 1, 5, D); };
  heed::softmax::forward(row(q), rows(near), rows(v), row(expected));
  heed::softmax::forward(row(q), k, rows(v), row(o));
  CHECK(o == expected);
  CHECK(o[0] > 0);
  const std::vector<double> slopes{0.5};
  std::vector<float> q5(5 * D, 1), o5(5 * D), expected5(5 * D);
  heed::lightning::forward(rows(q5), rows(near), rows(v), slopes, rows(expected5));
  heed::lightning::forward(rows(q5), k, rows(v), slopes, rows(o5));
  CHECK(o5 == expected5);
  munmap(region, bytes);
}
