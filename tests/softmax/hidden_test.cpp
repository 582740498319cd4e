// SPDX-License-Identifier: BSD-3-Clause

// What is hidden has no effect whatever it holds, behind every kind of mask and behind -inf of a bias or a score
// function; what is visible arrives. In k, in v and in the bias, at the borders of tiles of both drivers.

#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/softmax_case.hpp"
#include "support/softmax_options.hpp"

using namespace heed_test;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

// Many rows with a group; many rows; few rows with a group; one row. Keys over two and three tiles of either driver.
constexpr shape shapes[] = {
    {1, 2, 1, 34, 300, 12, 9}, {1, 1, 1, 33, 300, 8, 20}, {1, 4, 2, 3, 300, 12, 9}, {1, 1, 1, 1, 300, 8, 20}};
constexpr index_t key_classes[] = {0, 1, 127, 128, 255, 256, 299};

struct pair_list {  // whether row (head, query) of batch 0 sees a key
  std::vector<bool> sees;
  shape s;
  bool operator()(index_t h, index_t i, index_t j) const {
    return sees[static_cast<std::size_t>((h * s.queries + i) * s.keys + j)];
  }
};
template <class T> pair_list pairs_of(const softmax_case<T>& x) {
  pair_list out{std::vector<bool>(static_cast<std::size_t>(x.s.out_heads() * x.s.queries * x.s.keys)), x.s};
  heed::reference::softmax::detail::each_row(
      x.q.cview(), x.k.cview(), x.v.cview(), x.options,
      [&](const auto& sequence, index_t h, index_t i, const auto& scores, const auto&) {
        for (index_t j = 0; j < scores.size(); ++j)
          out.sees[static_cast<std::size_t>((h * x.s.queries + sequence.first_query + i) * x.s.keys +
                                            sequence.first_key + j)] = scores(j) != -HUGE_VAL;
      });
  return out;
}

template <class T> T hide_most(T s, const heed::position& p) {  // a class of keys from all rows, others from some
  return p.key % 127 < 3 || (p.key + p.query) % 3 == 0 ? -std::numeric_limits<T>::infinity() : s;
}

// Everything that can hide a key: masks alone, masks together, and -inf.
template <class T> class hiders {
 public:
  explicit hiders(const shape& s) : parts_(s) {
    const auto n = static_cast<std::int32_t>(s.queries);
    query_offsets_ = {0, n / 2, n, n}, key_offsets_ = {0, 128, 257, 299};
    lengths_ = {128};
    for (const auto& part : parts_.all)
      if (part.masks() || part.name.find("hides") != std::string::npos)
        all.push_back({part.name, parts_.of({&part}, parts_.whole())});
    const auto mask = [&](const char* name, const heed::mask& m) { all.push_back({name, {.mask = m}}); };
    all.push_back({"causal, top_left", {.mask = heed::causal(), .align = heed::top_left}});
    mask("key_lengths on a tile's border", heed::key_lengths(lengths_));
    const auto far = [](const heed::position& p) { return p.place - p.key > 42; };
    mask("window over a border", heed::window(171) & heed::visible_if(far));
    mask("packed", heed::packed(query_offsets_, key_offsets_));
    mask("packed and causal", heed::packed(query_offsets_, key_offsets_) & heed::causal());
    mask("keep_first with a gap", heed::window(40, 0, 1));
    bias_.assign(static_cast<std::size_t>(s.keys), T(0));
    for (const index_t j : key_classes) bias_[static_cast<std::size_t>(j)] = -std::numeric_limits<T>::infinity();
    all.push_back({"bias per key", {.bias = {bias_.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1}}}});
    all.push_back({"score", {.score = [](T x, const heed::position& p) { return hide_most(x, p); }}});
    mask("visible_if", heed::visible_if([](const heed::position& p) { return hide_most(0.0, p) == 0; }));
    all.push_back({"score and causal",
                   {.mask = heed::causal(), .score = [](T x, const heed::position& p) { return hide_most(x, p); }}});
    all.push_back({"softcap and bias", {.softcap = 2, .bias = {bias_.data(), {1, 1, 1, s.keys}, {0, 0, 0, 1}}}});
  }
  hiders(const hiders&) = delete;
  hiders& operator=(const hiders&) = delete;

  struct named {
    std::string name;
    heed::softmax::options<T> options;
  };
  std::vector<named> all;

 private:
  option_parts<T> parts_;
  std::vector<std::int32_t> query_offsets_, key_offsets_, lengths_;
  std::vector<T> bias_;
};

template <class T> void poison_key(const softmax_case<T>& x, const buffer<T>& in, index_t key, double bad) {
  for (index_t h = 0; h < x.s.kv_heads; ++h)
    for (index_t d = 0; d < in.size()[3]; ++d) in(0, h, key, d) = static_cast<T>(bad);
}
template <class T> bool same_row(const softmax_case<T>& a, const softmax_case<T>& b, index_t h, index_t i) {
  bool same = std::memcmp(&a.lse(0, h, i), &b.lse(0, h, i), sizeof(T)) == 0;
  for (index_t e = 0; e < a.s.value_dim; ++e)
    same = same && std::memcmp(&a.o(0, h, i, e), &b.o(0, h, i, e), sizeof(T)) == 0;
  return same;
}
template <class T> bool all_nan(const softmax_case<T>& x, index_t h, index_t i) {
  bool all = true;
  for (index_t e = 0; e < x.s.value_dim; ++e) all = all && std::isnan(x.o(0, h, i, e));
  return all;
}

// One key of every class is bad in k, then in v: rows that see it are NaN, all others have the reference's numbers.
template <class T> void check_bad_keys(const std::vector<shape>& sizes) {
  std::size_t turn = 0;
  for (const shape& s : sizes) {
    const hiders<T> set(s);
    for (const auto& [name, options] : set.all) {
      if (turn++ % thinning != 0) continue;
      const pair_list sees = pairs_of(softmax_case<T>(s, options));
      for (const index_t key : key_classes)
        for (int kind = 0; kind < 3; ++kind) {
          INFO(to_string(s) << ", " << name << ", key " << key << ", kind " << kind);
          softmax_case<T> x(s, options);
          if (kind == 0)
            poison_key(x, x.k, key, nan_value);
          else
            poison_key(x, x.v, key, kind == 1 ? nan_value : key % 2 == 0 ? inf : -inf);
          check(x);
          int wrong = 0;
          for (index_t h = 0; h < s.out_heads(); ++h)
            for (index_t i = 0; i < s.queries; ++i) {
              const bool bad = kind < 2 ? all_nan(x, h, i) : !std::isfinite(x.o(0, h, i, 0));
              wrong += bad != sees(h, i, key);
            }
          CHECK(wrong == 0);
        }
    }
  }
}

}  // namespace

TEST_CASE("float: a bad key reaches the rows that see it and no other") {
  check_bad_keys<float>({std::begin(shapes), std::end(shapes)});
}
TEST_CASE("double: a bad key reaches the rows that see it and no other") {
  check_bad_keys<double>({shapes[0], shapes[2]});
}

TEST_CASE("all hidden keys bad at once, in k and v: the bits of the call without them") {
  int with_unseen = 0;
  for (const shape& s : shapes) {
    const hiders<float> set(s);
    for (const auto& [name, options] : set.all) {
      softmax_case<float> clean(s, options);
      const pair_list sees = pairs_of(clean);
      std::vector<index_t> unseen;
      for (index_t j = 0; j < s.keys; ++j) {
        bool seen = false;
        for (index_t h = 0; h < s.out_heads(); ++h)
          for (index_t i = 0; i < s.queries; ++i) seen = seen || sees(h, i, j);
        if (!seen) unseen.push_back(j);
      }
      with_unseen += !unseen.empty();
      clean.forward();
      for (const double bad : {nan_value, inf, -inf, 1e18}) {
        INFO(to_string(s) << ", " << name << ", " << bad);
        softmax_case<float> x(s, options);
        for (const index_t j : unseen) poison_key(x, x.k, j, bad), poison_key(x, x.v, j, bad);
        x.forward();
        CHECK((same_bits(x.o, clean.o) && same_bits(x.lse, clean.lse)));
      }
    }
  }
  CHECK(with_unseen > 40);
}

TEST_CASE("NaN or +inf in the bias of hidden pairs: the same bits") {
  for (const shape& s : shapes) {
    const hiders<float> set(s);
    const index_t heads = s.out_heads(), pairs = s.queries * s.keys;
    for (const auto& [name, options] : set.all) {
      if (options.bias.data() != nullptr || heed::detail::parts(options.score).map_value != nullptr) continue;
      INFO(to_string(s) << ", " << name);
      std::vector<float> bias(static_cast<std::size_t>(heads * pairs));
      random_numbers random(9);
      for (float& x : bias) x = static_cast<float>(random.normal());
      for (const bool transposed : {false, true}) {
        heed::softmax::options<float> how = options;
        how.bias = {bias.data(), {1, heads, s.queries, s.keys}, {0, pairs, s.keys, 1}};
        if (transposed) how.bias = {bias.data(), {1, heads, s.queries, s.keys}, {0, pairs, 1, s.queries}};
        softmax_case<float> clean(s, how);
        const pair_list sees = pairs_of(clean);
        clean.forward();
        for (const double bad : {nan_value, inf}) {
          std::vector<float> worse = bias;
          for (index_t h = 0; h < heads; ++h)
            for (index_t i = 0; i < s.queries; ++i)
              for (index_t j = 0; j < s.keys; ++j)
                if (!sees(h, i, j))
                  worse[static_cast<std::size_t>(h * pairs + (transposed ? j * s.queries + i : i * s.keys + j))] =
                      static_cast<float>(bad);
          softmax_case<float> x(s, how);
          x.options.bias = {
              worse.data(), {1, heads, s.queries, s.keys}, {0, pairs, how.bias.stride(2), how.bias.stride(3)}};
          x.forward();
          CHECK((same_bits(x.o, clean.o) && same_bits(x.lse, clean.lse)));
        }
      }
    }
  }
}

TEST_CASE("NaN or +inf in the bias of one visible pair: that row, and no other bit") {
  for (const shape& s : shapes) {
    const index_t heads = s.out_heads(), pairs = s.queries * s.keys, row = s.queries / 2, head = heads - 1;
    for (const heed::mask& mask : {heed::mask{}, heed::causal(), heed::window(-1, 2, 0)})
      for (const index_t key : {index_t{0}, index_t{127}, index_t{128}, index_t{255}, index_t{256}})
        for (const double bad : {nan_value, inf}) {
          INFO(to_string(s) << ", key " << key);
          std::vector<float> bias(static_cast<std::size_t>(heads * pairs), 0.5f);
          const heed::tensor_view<const float, 4> view(bias.data(), {1, heads, s.queries, s.keys},
                                                       {0, pairs, s.keys, 1});
          softmax_case<float> clean(s, {.mask = mask, .bias = view}), x(s, {.mask = mask, .bias = view});
          clean.forward();
          bias[static_cast<std::size_t>(head * pairs + row * s.keys + key)] = static_cast<float>(bad);
          check(x);
          int wrong = 0;
          for (index_t h = 0; h < heads; ++h)
            for (index_t i = 0; i < s.queries; ++i)
              wrong += h == head && i == row ? !all_nan(x, h, i) : !same_row(x, clean, h, i);
          CHECK(wrong == 0);
          CHECK(std::isnan(x.lse(0, head, row)));
        }
  }
}

TEST_CASE("-inf of a bias or score function for every key of a row: 0 and -inf, or the sink") {
  for (const shape& s : shapes)
    for (const bool sink : {false, true})
      for (const bool bad_values : {false, true}) {
        std::vector<float> bias(static_cast<std::size_t>(s.queries), 0);
        bias[static_cast<std::size_t>(s.queries / 2)] = static_cast<float>(-inf);
        softmax_case<float> by_bias(s, {.bias = {bias.data(), {1, 1, s.queries, 1}, {0, 0, 1, 0}}});
        softmax_case<float> by_score(s, {.score = [row = s.queries / 2](float x, const heed::position& p) {
                                       return p.query == row ? -std::numeric_limits<float>::infinity() : x;
                                     }});
        for (softmax_case<float>* x : {&by_bias, &by_score}) {
          if (sink) x->options.sink_logits = 0.75;
          if (bad_values) poison_key(*x, x->v, 200, nan_value);
          check(*x);
          CHECK(x->o(0, 0, s.queries / 2, 3) == 0);
          CHECK(x->lse(0, 0, s.queries / 2) == (sink ? Approx(0.75f) : Approx(-inf)));
        }
      }
}
