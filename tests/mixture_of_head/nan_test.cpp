// SPDX-License-Identifier: BSD-3-Clause

// What has gate 0 has no effect, and what is not needed is not read: rows of q, whole heads of K and V. Gates of NaN
// and infinity are active.

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "support/catch.hpp"
#include "support/mixture_case.hpp"

using namespace heed_test;

namespace {

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
constexpr shape shapes[] = {{2, 4, 2, 90, 300, 12, 9}, {1, 3, 3, 150, 130, 20, 16}, {2, 4, 2, 3, 200, 12, 9}};

// Memory of whole pages, one for each head or more; reading or writing a closed one ends the program.
class pages {
 public:
  pages(index_t heads, index_t floats)
      : each_((floats * 4 + page() - 1) / page() * page()), bytes_(static_cast<std::size_t>(heads * each_)) {
    void* const p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<float*>(p);
  }
  ~pages() { munmap(data_, bytes_); }
  pages(const pages&) = delete;
  pages& operator=(const pages&) = delete;

  float* data() const { return data_; }
  index_t head_stride() const { return each_ / 4; }
  void close(index_t head) const {
    REQUIRE(mprotect(data_ + head * head_stride(), static_cast<std::size_t>(each_), PROT_NONE) == 0);
  }

 private:
  static index_t page() { return sysconf(_SC_PAGESIZE); }
  index_t each_;
  std::size_t bytes_;
  float* data_ = nullptr;
};

}  // namespace

TEST_CASE("NaN and infinity in rows of q with gate 0 reach nothing") {
  for (const shape& s : shapes)
    for (const gating how : gatings)
      for (const float poison : {nan_value, inf}) {
        INFO(to_string(s) << ", " << name_of(how));
        mixture_case<float> clean(s, how, {.mask = heed::causal()}), x(s, how, {.mask = heed::causal()});
        for (index_t b = 0; b < s.batch; ++b)
          for (index_t h = 0; h < s.heads; ++h)
            for (index_t i = 0; i < s.queries; ++i)
              for (index_t d = 0; x.gates(b, h, i) == 0 && d < s.dim; ++d) x.q(b, h, i, d) = poison;
        clean.mix();
        x.mix();
        CHECK((same_bits(x.o, clean.o) && same_bits(x.lse, clean.lse)));
      }
}

TEST_CASE("NaN in q of an active row stays in that row") {
  for (const shape& s : shapes) {
    mixture_case<float> clean(s), x(s);
    index_t hit = 0;
    for (index_t i = 0; i < s.queries; ++i)
      if (x.gates(0, 1, i) != 0) hit = i;
    x.q(0, 1, hit, s.dim - 1) = nan_value;
    clean.mix();
    x.mix();
    bool right = true;
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.heads; ++h)
        for (index_t i = 0; i < s.queries; ++i)
          for (index_t e = 0; e < s.value_dim; ++e) {
            const bool here = b == 0 && h == 1 && i == hit && x.gates(b, h, i) != 0;
            right = right && (here ? std::isnan(x.o(b, h, i, e)) : x.o(b, h, i, e) == clean.o(b, h, i, e));
          }
    CHECK(right);
  }
}

TEST_CASE("NaN in keys and values that a row does not see, and in those that it sees") {
  for (const shape& s : shapes) {
    mixture_case<float> clean(s, gating::random, {.mask = heed::causal()}),
        x(s, gating::random, {.mask = heed::causal()});
    const index_t hit = s.keys - 2;  // the last row sees it, and the one before it
    x.v(0, 0, hit, 0) = nan_value;
    x.k(0, 0, hit, 1) = nan_value;
    clean.mix();
    x.mix();
    bool right = true;
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < s.queries; ++i) {
        const bool sees = h / (s.heads / s.kv_heads) == 0 && i + s.keys - s.queries >= hit && x.gates(0, h, i) != 0;
        right = right && (sees ? std::isnan(x.o(0, h, i, 0)) : x.o(0, h, i, 0) == clean.o(0, h, i, 0));
      }
    CHECK(right);
  }
}

TEST_CASE("gates of NaN and infinity are active, and stay in their row") {
  for (const shape& s : shapes) {
    mixture_case<float> clean(s, gating::all_ones), x(s, gating::all_ones);
    x.gates(0, 1, 0) = nan_value, x.gates(0, 2, s.queries - 1) = -inf;
    clean.mix();
    x.mix();
    bool right = true;
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < s.queries; ++i)
        for (index_t e = 0; e < s.value_dim; ++e) {
          const float o = x.o(0, h, i, e), one = clean.o(0, h, i, e);
          if (h == 1 && i == 0)
            right = right && std::isnan(o);
          else if (h == 2 && i == s.queries - 1)
            right = right && o == -inf * one;
          else
            right = right && o == one;
        }
    CHECK(right);
    CHECK(same_bits(x.lse, clean.lse));  // of the head, not of the gate
  }
}

TEST_CASE("rows that see no key are 0 under any gate, with sinks and without") {
  for (const shape& s : {shape{1, 2, 1, 90, 20, 8, 8}, shape{1, 2, 1, 5, 2, 8, 8}})
    for (const bool sinks : {false, true}) {
      heed::softmax::options<float> with{.mask = heed::causal()};
      if (sinks) with.sink_logits = -1;
      mixture_case<float> x(s, gating::random, with);
      x.gates(0, 0, 0) = nan_value, x.gates(0, 1, 0) = -inf, x.gates(0, 0, 1) = 3;
      x.gates(0, 1, s.queries - 1) = inf;  // sees all keys
      x.mix();
      CHECK(std::isinf(x.o(0, 1, s.queries - 1, 0)));
      const auto expected = buffer<double>::output(x.o.size());
      heed::reference::mixture_of_head::forward(x.q.cview(), x.k.cview(), x.v.cview(), x.gates.view3(), expected.view(),
                                                with);
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < s.queries - s.keys; ++i) {
          if (!sinks || x.gates(0, h, i) == 0) CHECK(x.lse(0, h, i) == -inf);
          if (sinks && x.gates(0, h, i) != 0) CHECK(x.lse(0, h, i) == -1);
          for (index_t e = 0; e < 8; ++e) CHECK((x.o(0, h, i, e) == 0 && expected(0, h, i, e) == 0));
        }
    }
}

TEST_CASE("tiny gates keep their digits") {
  for (const shape& s : {shape{1, 2, 1, 90, 500, 8, 8}, shape{1, 2, 1, 5, 500, 8, 8}}) {
    mixture_case<float> x(s, gating::all_ones), ones(s, gating::all_ones);
    constexpr float tiny = 0x1p-125f;  // 1 / 500 of it is below the smallest normal number
    x.q.each([](float& q) { q = 0; }), ones.q.each([](float& q) { q = 0; });  // weights of 1 / 500
    x.v.each([](float& v) { v *= 0x1p20f; }), ones.v.each([](float& v) { v *= 0x1p20f; });
    for (index_t i = 0; i < s.queries; ++i) x.gates(0, 1, i) = tiny;
    x.mix(), ones.mix();
    for (index_t i = 0; i < s.queries; ++i)
      for (index_t e = 0; e < 8; ++e) CHECK(x.o(0, 1, i, e) == Approx(ones.o(0, 1, i, e) * tiny).epsilon(1e-6));
  }
}

TEST_CASE("keys and values of a head that no token uses are not read, nor rows of q with gate 0") {
  for (const index_t n : {3, 100}) {
    constexpr index_t group = 2, kv_heads = 3, keys = 50, dim = 16;
    const shape s{1, group * kv_heads, kv_heads, n, keys, dim, dim};
    mixture_case<float> x(s, gating::random);
    for (index_t h = 0; h < s.heads; ++h)
      for (index_t i = 0; i < n; ++i) x.gates(0, h, i) = h / group == 1 || h == 5 ? 0.f : x.gates(0, h, i);
    x.mix();
    const pages q(s.heads, n * dim), k(kv_heads, keys * dim), v(kv_heads, keys * dim);
    const auto copy = [](const buffer<float>& from, const pages& to, index_t rows) {
      for (index_t h = 0; h < from.size()[1]; ++h)
        for (index_t i = 0; i < rows; ++i)
          for (index_t d = 0; d < dim; ++d) to.data()[h * to.head_stride() + i * dim + d] = from(0, h, i, d);
    };
    copy(x.q, q, n), copy(x.k, k, keys), copy(x.v, v, keys);
    k.close(1), v.close(1);
    q.close(2), q.close(3), q.close(5);
    const auto view = [](const pages& p, index_t heads, index_t rows) {
      return input<float>(p.data(), {1, heads, rows, dim}, {0, p.head_stride(), dim, 1});
    };
    const auto o = buffer<float>::output(x.o.size());
    run_mixture<float>(view(q, s.heads, n), view(k, kv_heads, keys), view(v, kv_heads, keys), x.gates.view3(), o.view(),
                       {}, {});
    CHECK(same_bits(o, x.o));
  }
}
