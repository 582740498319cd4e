// SPDX-License-Identifier: BSD-3-Clause

// What backward finds out about the strides of dbias: whether pairs of a head share a number of it.

#include "heed/pairwise/gradient_problem.hpp"
#include "support/catch.hpp"

namespace {

using heed::index_t;

// queries x keys numbers, `row` and `key` apart
bool shared(index_t queries, index_t keys, index_t row, index_t key) {
  float number = 0;
  return heed::pairwise::pairs_share_numbers<float>({&number, {1, 1, queries, keys}, {0, 0, row, key}});
}

}  // namespace

TEST_CASE("pairs share numbers of a bias where a row begins before the last key of the one before it") {
  CHECK_FALSE(shared(2, 5, 5, 1));
  CHECK(shared(2, 5, 4, 1));
  CHECK(shared(2, 5, 3, 1));
  CHECK(shared(2, 5, -3, 1));
  CHECK(shared(5, 2, 1, 1));  // a number per distance
  CHECK_FALSE(shared(5, 2, 2, 1));
  CHECK_FALSE(shared(1, 5, 0, 1));
}

TEST_CASE("pairs share numbers of a bias where keys are further apart than rows") {
  CHECK_FALSE(shared(5, 2, 1, 5));
  CHECK(shared(5, 2, 1, 4));
  CHECK(shared(5, 2, 1, -3));
  CHECK_FALSE(shared(2, 5, 1, 2));
}
