// SPDX-License-Identifier: BSD-3-Clause

// Bad tensors: shapes, strides, null pointers, outputs that are inputs. Options and masks: option_errors_test.cpp.

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_errors.hpp"
#include "support/vectors.hpp"

using namespace heed_test;

namespace {

constexpr shape good{2, 4, 2, 5, 7, 8, 6};

template <class T> heed::tensor_view<T, 4> with(heed::tensor_view<T, 4> x, int axis, index_t extent) {
  std::array<index_t, 4> n{}, s{};
  for (int a = 0; a < 4; ++a) {
    n[static_cast<std::size_t>(a)] = a == axis ? extent : x.extent(a);
    s[static_cast<std::size_t>(a)] = x.stride(a);
  }
  return {x.data(), n, s};
}
template <class T> heed::tensor_view<T, 4> strided(heed::tensor_view<T, 4> x) {  // last stride 2
  return {
      x.data(), {x.extent(0), x.extent(1), x.extent(2), x.extent(3) / 2}, {x.stride(0), x.stride(1), x.stride(2), 2}};
}
template <class T> heed::tensor_view<T, 4> at(heed::tensor_view<T, 4> x, T* data) {
  return {
      data, {x.extent(0), x.extent(1), x.extent(2), x.extent(3)}, {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}
void refused(const char* what, const std::vector<std::string>& must, const std::function<void(call&)>& bend) {
  heed_test::refused(good, what, must, bend);
}
heed::tensor_view<float, 3> lse_of(call& c, index_t b, index_t h, index_t n) {
  return {c.x.lse.view3().data(), {b, h, n}, {h * n, n, 1}};
}

}  // namespace

TEST_CASE("the call that the others bend is good") {
  call c(good);
  const heed::plan plan = run_plan<float>(c.q, c.k, c.v, c.o, c.options, {});
  CHECK(plan.ok());
  CHECK(std::string(plan.problem.data()).empty());
  CHECK(thrown_by([&] { run_forward<float>(c.q, c.k, c.v, c.o, c.options, {}); }).empty());
  CHECK_FALSE(c.x.o.untouched());
}

TEST_CASE("shapes that disagree: both arguments and both numbers") {
  refused("batch of k", {"q", "k", "2", "3"}, [](call& c) { c.k = with(c.k, 0, 3); });
  refused("batch of v", {"v", "2", "3"}, [](call& c) { c.v = with(c.v, 0, 3); });
  refused("batch of k is 1: no silent broadcast", {"q", "k", "2", "1"}, [](call& c) { c.k = with(c.k, 0, 1); });
  refused("batch of o", {"o", "q", "2", "1"}, [](call& c) { c.o = with(c.o, 0, 1); });
  refused("heads of q and k", {"q", "k", "4", "3"}, [](call& c) { c.k = with(c.k, 1, 3), c.v = with(c.v, 1, 3); });
  refused("more heads of k, no multiple", {"q", "k", "4", "6"},
          [](call& c) { c.k = with(c.k, 1, 6), c.v = with(c.v, 1, 6); });
  refused("no heads of k", {"q", "k", "4", "0"}, [](call& c) { c.k = with(c.k, 1, 0), c.v = with(c.v, 1, 0); });
  refused("heads of v", {"k", "v", "2", "1"}, [](call& c) { c.v = with(c.v, 1, 1); });
  refused("heads of o", {"o", "4", "2"}, [](call& c) { c.o = with(c.o, 1, 2); });
  refused("heads of o for more heads of k", {"o", "4", "8"},
          [](call& c) { c.k = with(c.k, 1, 8), c.v = with(c.v, 1, 8); });
  refused("keys of v", {"k", "v", "7", "6"}, [](call& c) { c.v = with(c.v, 2, 6); });
  refused("queries of o", {"o", "q", "5", "4"}, [](call& c) { c.o = with(c.o, 2, 4); });
  refused("dim of k", {"q", "k", "8", "7"}, [](call& c) { c.k = with(c.k, 3, 7); });
  refused("dim of o", {"o", "v", "6", "5"}, [](call& c) { c.o = with(c.o, 3, 5); });
  refused("batch of lse", {"lse", "2", "1"}, [](call& c) { c.options.lse = lse_of(c, 1, 4, 5); });
  refused("heads of lse", {"lse", "4", "2"}, [](call& c) { c.options.lse = lse_of(c, 2, 2, 5); });
  refused("queries of lse", {"lse", "5", "4"}, [](call& c) { c.options.lse = lse_of(c, 2, 4, 4); });
}

TEST_CASE("head dims of 0, strides and null pointers") {
  refused("D = 0", {"q", "0"}, [](call& c) { c.q = with(c.q, 3, 0), c.k = with(c.k, 3, 0); });
  refused("E = 0", {"v", "0"}, [](call& c) { c.v = with(c.v, 3, 0), c.o = with(c.o, 3, 0); });
  refused("negative extent", {"q", "-1"}, [](call& c) { c.q = with(c.q, 2, -1); });
  refused("stride of q", {"q", "2", "1"}, [](call& c) { c.q = strided(c.q), c.k = with(c.k, 3, 4); });
  refused("stride of k", {"k", "2", "1"}, [](call& c) { c.k = strided(c.k), c.q = with(c.q, 3, 4); });
  refused("stride of v", {"v", "2", "1"}, [](call& c) { c.v = strided(c.v), c.o = with(c.o, 3, 3); });
  refused("stride of o", {"o", "2", "1"}, [](call& c) { c.o = strided(c.o), c.v = with(c.v, 3, 3); });
  refused("o with every query in one place", {"o", "0"}, [](call& c) {
    c.o = {c.o.data(), {2, 4, 5, 6}, {c.o.stride(0), c.o.stride(1), 0, 1}};
  });
  refused("null q", {"q"}, [](call& c) { c.q = at<const float>(c.q, nullptr); });
  refused("null k", {"k"}, [](call& c) { c.k = at<const float>(c.k, nullptr); });
  refused("null v", {"v"}, [](call& c) { c.v = at<const float>(c.v, nullptr); });
  refused("null o", {"o"}, [](call& c) { c.o = at<float>(c.o, nullptr); });
}

TEST_CASE("an output that is an input: both arguments") {
  refused("o is q", {"o", "q"}, [](call& c) { c.o = at<float>(c.o, c.x.q.view().data()); });
  refused("o is k", {"o", "k"}, [](call& c) { c.o = at<float>(c.o, c.x.k.view().data()); });
  refused("o is v", {"o", "v"}, [](call& c) { c.o = at<float>(c.o, c.x.v.view().data()); });
  refused("lse is q", {"lse", "q"}, [](call& c) { c.options.lse = {c.x.q.view().data(), {2, 4, 5}, {20, 5, 1}}; });
  refused("lse is k", {"lse", "k"}, [](call& c) { c.options.lse = {c.x.k.view().data(), {2, 4, 5}, {20, 5, 1}}; });
  refused("lse is v", {"lse", "v"}, [](call& c) { c.options.lse = {c.x.v.view().data(), {2, 4, 5}, {20, 5, 1}}; });
  refused("lse is o", {"lse", "o"}, [](call& c) { c.options.lse = {c.x.o.view().data(), {2, 4, 5}, {20, 5, 1}}; });
}

TEST_CASE("a vector is one row of at most 1024; a whole tensor without its axes is refused, naming bhsd()") {
  CHECK(wrong_with_vectors(run_softmax_vectors) == "");
}
