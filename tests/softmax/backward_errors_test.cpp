// SPDX-License-Identifier: BSD-3-Clause

// Bad calls of softmax::backward: each throws the text of its plan before anything is written.

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "heed/core/factories.hpp"
#include "support/catch.hpp"
#include "support/recurrent_errors.hpp"
#include "support/softmax_backward_case.hpp"

using namespace heed_test;

namespace {

// A good call that a test bends, with every gradient there is
struct bent {
  std::vector<float> bias;
  backward_case<float> x;
  backward_tensors<float> at;
  heed::softmax::gradients<float> wanted;
  heed::softmax::options<float> options;

  explicit bent(const shape& s = {2, 4, 2, 5, 7, 8, 6})
      : bias(static_cast<std::size_t>(4 * 5 * 7), 0.5f),
        x(s, {.alibi_slopes = 0.1, .bias = {bias.data(), {1, 4, 5, 7}, {0, 35, 7, 1}}, .sink_logits = 0.3}),
        at(x.tensors()),
        wanted(x.wanted),
        options(x.options) {
    x.forward();
  }
  bool untouched() const {
    bool none = true;
    for (const buffer<float>* each : x.outputs()) none = none && each->untouched();
    return none;
  }
};

void refused(const char* what, const std::vector<std::string>& must, const std::function<void(bent&)>& bend) {
  bent c;
  bend(c);
  check_refusal(
      what, run_plan_backward<float>(c.at, c.wanted, c.options, {}),
      [&] { run_backward<float>(c.at, c.wanted, c.options, {}); }, must);
  INFO(what);
  CHECK(c.untouched());
}
void accepted(const char* what, const std::function<void(bent&)>& bend) {
  bent c;
  bend(c);
  INFO(what);
  CHECK(text_of_error([&] { run_backward<float>(c.at, c.wanted, c.options, {}); }) == "");
  CHECK(run_plan_backward<float>(c.at, c.wanted, c.options, {}).ok());
}

template <class T> using view4 = heed::tensor_view<T, 4>;
heed::tensor_view<float, 1> numbers_at(float* data, index_t count, index_t stride = 1) {
  return {data, {count}, {stride}};
}

}  // namespace

TEST_CASE("the call of backward that the others bend is good") {
  accepted("all gradients", [](bent&) {});
  accepted("none", [](bent& c) { c.wanted = {}; });
  accepted("only what comes in", [](bent& c) { c.wanted = {.dlse = c.wanted.dlse}; });
}

TEST_CASE("backward: what is wrong in forward is wrong here") {
  refused("batch of k", {"q", "k", "2", "3"}, [](bent& c) { c.at.k = with(c.at.k, 0, 3); });
  refused("heads", {"q", "k", "4", "3"}, [](bent& c) { c.at.k = with(c.at.k, 1, 3), c.at.v = with(c.at.v, 1, 3); });
  refused("keys of v", {"k", "v", "7", "6"}, [](bent& c) { c.at.v = with(c.at.v, 2, 6); });
  refused("dim of k", {"q", "k", "8", "7"}, [](bent& c) { c.at.k = with(c.at.k, 3, 7); });
  refused("queries of o", {"o", "q", "5", "4"}, [](bent& c) { c.at.o = with(c.at.o, 2, 4); });
  refused("stride of q", {"q", "2", "1"}, [](bent& c) { c.at.q = strided(c.at.q), c.at.k = with(c.at.k, 3, 4); });
  refused("null v", {"v"}, [](bent& c) { c.at.v = at<const float>(c.at.v, nullptr); });
  refused("scale", {"scale", "NaN"}, [](bent& c) { c.options.scale = std::numeric_limits<double>::quiet_NaN(); });
  refused("softcap", {"softcap", "-1"}, [](bent& c) { c.options.softcap = -1; });
  refused("slopes", {"alibi_slopes", "-1"}, [](bent& c) { c.options.alibi_slopes = -1; });
  refused("window", {"window", "-2"}, [](bent& c) { c.options.mask = heed::window(-2); });
  const std::vector<std::int32_t> beyond{8, 3}, two{3, 4}, other{3, 5};
  refused("lengths", {"key_lengths", "8", "7"}, [&](bent& c) { c.options.mask = heed::key_lengths(beyond); });
  refused("two masks of a kind", {"two", "different", "key_lengths"},
          [&](bent& c) { c.options.mask = heed::key_lengths(two) & heed::key_lengths(other); });
  refused("extents of the bias", {"bias", "5", "4"},
          [](bent& c) { c.options.bias = with(c.options.bias, 2, 4), c.wanted.dbias = {}; });
}

TEST_CASE("backward: dout, dlse and lse") {
  refused("batch of dout", {"dout", "o", "2", "1"}, [](bent& c) { c.at.dout = with(c.at.dout, 0, 1); });
  refused("heads of dout", {"dout", "o", "4", "2"}, [](bent& c) { c.at.dout = with(c.at.dout, 1, 2); });
  refused("queries of dout", {"dout", "o", "5", "6"}, [](bent& c) { c.at.dout = with(c.at.dout, 2, 6); });
  refused("dim of dout", {"dout", "o", "6", "5"}, [](bent& c) { c.at.dout = with(c.at.dout, 3, 5); });
  refused("stride of dout", {"dout", "2", "1"}, [](bent& c) {
    c.at.dout = strided(c.at.dout), c.at.o = with(c.at.o, 3, 3), c.at.v = with(c.at.v, 3, 3);
    c.wanted.dv = with(c.wanted.dv, 3, 3);
  });
  refused("null dout", {"dout", "null"}, [](bent& c) { c.at.dout = at<const float>(c.at.dout, nullptr); });
  refused("batch of lse", {"lse", "2", "1"}, [](bent& c) { c.options.lse = with(c.options.lse, 0, 1); });
  refused("heads of lse", {"lse", "4", "2"}, [](bent& c) { c.options.lse = with(c.options.lse, 1, 2); });
  refused("queries of lse", {"lse", "5", "4"}, [](bent& c) { c.options.lse = with(c.options.lse, 2, 4); });
  refused("batch of dlse", {"dlse", "2", "3"}, [](bent& c) { c.wanted.dlse = with(c.wanted.dlse, 0, 3); });
  refused("heads of dlse", {"dlse", "4", "1"}, [](bent& c) { c.wanted.dlse = with(c.wanted.dlse, 1, 1); });
  refused("queries of dlse", {"dlse", "5", "0"}, [](bent& c) { c.wanted.dlse = with(c.wanted.dlse, 2, 0); });
  accepted("dlse with every number in one place",
           [](bent& c) { c.wanted.dlse = {c.wanted.dlse.data(), {2, 4, 5}, {0, 0, 0}}; });
}

TEST_CASE("backward: gradients have the shapes of what they are gradients of") {
  refused("batch of dq", {"dq", "q", "2", "1"}, [](bent& c) { c.wanted.dq = with(c.wanted.dq, 0, 1); });
  refused("heads of dq", {"dq", "q", "4", "2"}, [](bent& c) { c.wanted.dq = with(c.wanted.dq, 1, 2); });
  refused("queries of dq", {"dq", "q", "5", "7"}, [](bent& c) { c.wanted.dq = with(c.wanted.dq, 2, 7); });
  refused("dim of dq", {"dq", "q", "8", "6"}, [](bent& c) { c.wanted.dq = with(c.wanted.dq, 3, 6); });
  refused("heads of dk", {"dk", "k", "2", "4"}, [](bent& c) { c.wanted.dk = with(c.wanted.dk, 1, 4); });
  refused("keys of dk", {"dk", "k", "7", "5"}, [](bent& c) { c.wanted.dk = with(c.wanted.dk, 2, 5); });
  refused("keys of dv", {"dv", "v", "7", "8"}, [](bent& c) { c.wanted.dv = with(c.wanted.dv, 2, 8); });
  refused("dim of dv", {"dv", "v", "6", "8"}, [](bent& c) { c.wanted.dv = with(c.wanted.dv, 3, 8); });
  refused("batch of dbias", {"dbias", "bias", "1", "2"}, [](bent& c) { c.wanted.dbias = with(c.wanted.dbias, 0, 2); });
  refused("keys of dbias", {"dbias", "bias", "7", "1"}, [](bent& c) { c.wanted.dbias = with(c.wanted.dbias, 3, 1); });
  refused("entries of dsink_logits", {"dsink_logits", "4", "3"},
          [](bent& c) { c.wanted.dsink_logits = with(c.wanted.dsink_logits, 0, 3); });
  refused("entries of dalibi_slopes", {"dalibi_slopes", "4", "1"},
          [](bent& c) { c.wanted.dalibi_slopes = with(c.wanted.dalibi_slopes, 0, 1); });
}

TEST_CASE("backward: gradients that cannot be written") {
  refused("stride of dq", {"dq", "2", "1"}, [](bent& c) {
    static float memory[2 * 4 * 5 * 16];
    c.wanted.dq = {memory, {2, 4, 5, 8}, {320, 80, 16, 2}};
  });
  refused("stride of dv", {"dv", "-1", "1"}, [](bent& c) {
    static float memory[2 * 2 * 7 * 6];
    c.wanted.dv = {memory + 5, {2, 2, 7, 6}, {84, 42, 6, -1}};
  });
  refused("dk with every key in one place", {"dk", "0"}, [](bent& c) {
    c.wanted.dk = {c.wanted.dk.data(), {2, 2, 7, 8}, {c.wanted.dk.stride(0), c.wanted.dk.stride(1), 0, 1}};
  });
  refused("dq with every batch in one place", {"dq", "0", "2"},
          [](bent& c) { c.wanted.dq = {c.wanted.dq.data(), {2, 4, 5, 8}, {0, 40, 8, 1}}; });
  refused("dbias with every row in one place", {"dbias", "0", "5"},
          [](bent& c) { c.wanted.dbias = {c.wanted.dbias.data(), {1, 4, 5, 7}, {0, 7, 0, 1}}; });
  refused("dbias whose heads share numbers", {"dbias", "8", "heads"}, [](bent& c) {
    static float memory[100];
    c.wanted.dbias = {memory + 4, {1, 4, 5, 7}, {0, 8, -1, 1}};
  });
  accepted("dbias of heads side by side, and along diagonals of each head", [](bent& c) {
    static float memory[140];
    c.wanted.dbias = {memory, {1, 4, 5, 7}, {0, 7, 28, 1}};
    CHECK(run_plan_backward<float>(c.at, c.wanted, c.options, {}).ok());
    c.wanted.dbias = {memory + 4, {1, 4, 5, 7}, {0, 11, -1, 1}};
  });
  refused("dsink_logits in one place", {"dsink_logits", "0", "4"},
          [](bent& c) { c.wanted.dsink_logits = numbers_at(c.x.dsinks.view().data(), 4, 0); });
  accepted("dsink_logits far apart", [](bent& c) {
    static float memory[40];
    c.wanted.dsink_logits = numbers_at(memory, 4, 9);
  });
}

TEST_CASE("backward: gradients of options that are not there, and functions without a derivative") {
  refused("no bias", {"dbias", "bias"}, [](bent& c) { c.options.bias = {}; });
  refused("no sinks", {"dsink_logits", "sink_logits"}, [](bent& c) { c.options.sink_logits = {}; });
  refused("no slopes", {"dalibi_slopes", "alibi_slopes"}, [](bent& c) { c.options.alibi_slopes = {}; });
  refused("no derivative", {"score", "derivative"},
          [](bent& c) { c.options.score = [](float s, const heed::position&) { return 2 * s; }; });
  accepted("a derivative", [](bent& c) {
    c.options.score = {[](float s, const heed::position&) { return 2 * s; },
                       [](float, const heed::position&) { return 2.f; }};
  });
}

TEST_CASE("backward: no gradient is the memory of an input or of another gradient") {
  const auto data = [](const buffer<float>& x) { return x.view().data(); };
  refused("dq is q", {"dq", "q"}, [&](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, data(c.x.q)); });
  refused("dk is k", {"dk", "k"}, [&](bent& c) { c.wanted.dk = at<float>(c.wanted.dk, data(c.x.k)); });
  refused("dk is q", {"dk", "q"}, [&](bent& c) { c.wanted.dk = at<float>(c.wanted.dk, data(c.x.q)); });
  refused("dv is o", {"dv", "o"}, [&](bent& c) { c.wanted.dv = at<float>(c.wanted.dv, data(c.x.o)); });
  refused("dv is dout", {"dv", "dout"}, [&](bent& c) { c.wanted.dv = at<float>(c.wanted.dv, data(c.x.dout)); });
  refused("dq is lse", {"dq", "lse"}, [&](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, data(c.x.lse)); });
  refused("dq is dlse", {"dq", "dlse"}, [&](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, data(c.x.dlse)); });
  refused("dbias is bias", {"dbias", "bias"},
          [&](bent& c) { c.wanted.dbias = at<float>(c.wanted.dbias, c.bias.data()); });
  refused("dq is dk", {"dq", "dk"}, [](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, c.wanted.dk.data()); });
  refused("dk is dv", {"dk", "dv"}, [](bent& c) { c.wanted.dk = at<float>(c.wanted.dk, c.wanted.dv.data()); });
  refused("dbias is dq", {"dbias", "dq"},
          [](bent& c) { c.wanted.dbias = at<float>(c.wanted.dbias, c.wanted.dq.data()); });
  refused("dsink_logits is dalibi_slopes", {"dsink_logits", "dalibi_slopes"},
          [](bent& c) { c.wanted.dsink_logits = c.wanted.dalibi_slopes; });
  static std::vector<float> sinks{0.1f, 0.2f, 0.3f, 0.4f};
  refused("dsink_logits is sink_logits", {"dsink_logits", "sink_logits"}, [](bent& c) {
    c.options.sink_logits = sinks;
    c.wanted.dsink_logits = numbers_at(sinks.data(), 4);
  });
  static std::vector<float> slopes{0.1f, 0.2f, 0.3f, 0.4f};
  refused("dalibi_slopes is alibi_slopes", {"dalibi_slopes", "alibi_slopes"}, [](bent& c) {
    c.options.alibi_slopes = slopes;
    c.wanted.dalibi_slopes = numbers_at(slopes.data(), 4);
  });
}

TEST_CASE("backward: k, v and dout may share memory, and gradients may lie in slots of one buffer") {
  const shape s{1, 2, 2, 9, 9, 8, 8};
  backward_case<float> x(s), y(s);
  y.wanted.dq = {}, y.wanted.dk = {}, y.wanted.dv = {};
  x.forward(), x.backward();
  y.forward();
  std::vector<float> packed(9 * 3 * 2 * 8, 7);
  const auto slots = heed::packed_qkv(packed.data(), 1, 9, 2, 2, 8);
  y.wanted.dq = slots[0], y.wanted.dk = slots[1], y.wanted.dv = slots[2];
  y.backward();
  bool same = true;
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 9; ++i)
      for (index_t d = 0; d < 8; ++d)
        same = same && slots[0](0, h, i, d) == x.dq(0, h, i, d) && slots[1](0, h, i, d) == x.dk(0, h, i, d) &&
               slots[2](0, h, i, d) == x.dv(0, h, i, d);
  CHECK(same);
  backward_case<float> one(s);
  one.forward();
  run_backward<float>({one.q.cview(), one.k.cview(), one.k.cview(), one.o.cview(), one.o.cview()}, one.wanted,
                      one.options, {});
  CHECK_FALSE(one.dv.untouched());
}
