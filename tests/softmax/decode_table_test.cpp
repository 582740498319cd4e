// SPDX-License-Identifier: BSD-3-Clause

// The table of a paged cache: entries behind a sequence's last token are not read.

#include <sys/mman.h>

#include <vector>

#include "heed/cache.hpp"
#include "support/catch.hpp"
#include "support/decode_run.hpp"
#include "support/random.hpp"

using namespace heed_test;

namespace {

// So many numbers, behind the last of which no memory can be touched
class guarded_table {
 public:
  explicit guarded_table(index_t n)
      : memory_(static_cast<std::byte*>(
            mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))),
        first_(reinterpret_cast<std::int32_t*>(memory_ + page) - n) {
    REQUIRE(mprotect(memory_ + page, page, PROT_NONE) == 0);
  }
  guarded_table(const guarded_table&) = delete;
  guarded_table& operator=(const guarded_table&) = delete;
  ~guarded_table() { munmap(memory_, 2 * page); }
  std::int32_t* data() const { return first_; }

 private:
  static constexpr std::size_t page = 65536;
  std::byte* memory_;
  std::int32_t* first_;
};

}  // namespace

TEST_CASE("decode: a table of pages is read up to the last token's page") {
  constexpr index_t dim = 16, rows = 16;
  for (const index_t group : {1, 4, 8, 20})
    for (const index_t pages : {1, 4, 9, 40}) {
      INFO("group of " << group << ", " << pages << " pages");
      random_numbers random(7);
      std::vector<float> q(static_cast<std::size_t>(group * dim)), o(q.size()), want(q.size());
      std::vector<float> k(static_cast<std::size_t>(pages * rows * dim)), v(k.size());
      for (auto* const numbers : {&q, &k, &v})
        for (float& x : *numbers) x = static_cast<float>(random.normal());
      const guarded_table table(pages);
      for (index_t i = 0; i < pages; ++i) table.data()[i] = static_cast<std::int32_t>(i);
      const std::vector<std::int32_t> length{static_cast<std::int32_t>(pages * rows)};
      const input<float> query(q.data(), {1, group, 1, dim}, {group * dim, dim, dim, 1});
      const auto paged = [&](const std::vector<float>& x) {
        return input<float>(x.data(), {pages, 1, rows, dim}, {rows * dim, rows * dim, dim, 1});
      };
      const auto whole = [&](const std::vector<float>& x) {
        return input<float>(x.data(), {1, 1, pages * rows, dim}, {pages * rows * dim, pages * rows * dim, dim, 1});
      };
      const auto out = [&](std::vector<float>& x) {
        return output<float>(x.data(), {1, group, 1, dim}, {group * dim, dim, dim, 1});
      };
      const heed::tensor_view<const std::int32_t, 2> blocks(table.data(), {1, pages}, {pages, 1});
      const heed::softmax::options<float> how;
      run_decode<float>({query, heed::paged_cache(paged(k), paged(v), blocks, length), out(o)}, how, {});
      run_decode<float>({query, heed::contiguous_cache(whole(k), whole(v), length), out(want)}, how, {});
      CHECK(o == want);
    }
}
