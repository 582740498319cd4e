// SPDX-License-Identifier: BSD-3-Clause

// Caches allocate in their constructor and nowhere else; rows begin at a cache line.

#include <cstdint>
#include <vector>

#include "heed/cache.hpp"
#include "support/catch.hpp"
#include "support/counting_new.hpp"

using namespace heed_test;
using heed::index_t;

namespace {

const std::vector<float> numbers(4000, 0.5f);
auto rows(index_t b, index_t h, index_t n, index_t d) { return heed::bhsd(numbers.data(), b, h, n, d); }

bool at_a_line(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

// Allocations of calls of every kind on a cache of 2 sequences, 2 heads, D 33, E 20
template <class Cache> long count(Cache& c) {
  const long before = allocations;
  auto x = c.view();
  c.append(rows(2, 2, 3, 33), rows(2, 2, 3, 20));
  c.append(1, rows(1, 2, 6, 33), rows(1, 2, 6, 20));
  c.truncate(1, 4);
  c.fork(1, 0);
  c.append(0, rows(1, 2, 1, 33), rows(1, 2, 1, 20));
  c.append(1, rows(1, 2, 1, 33), rows(1, 2, 1, 20));
  c.release(0);
  Cache moved = std::move(c);
  c = std::move(moved);
  c.reset();
  x = c.view();
  return allocations - before;
}

template <class T> void check_all() {
  heed::cache::contiguous<T> contiguous(2, 2, 10, 33, 20);
  heed::cache::ring<T> ring(2, 2, 7, 33, 20, 2, heed::cache::lengths_per::kv_head);
  heed::cache::paged<T> paged(9, 3, 2, 33, 20, 2);
  CHECK(count(contiguous) == 0);
  CHECK(count(ring) == 0);
  CHECK(count(paged) == 0);
  CHECK((at_a_line(contiguous.view().k.data()) && at_a_line(contiguous.view().v.data())));
  CHECK((at_a_line(ring.view().k.data()) && at_a_line(ring.view().v.data())));
  CHECK((at_a_line(paged.view().k.data()) && at_a_line(paged.view().v.data())));
}

}  // namespace

TEST_CASE("caches allocate nothing after their construction") {
  check_all<float>();
  check_all<heed::f16_t>();
  check_all<std::int8_t>();
}
