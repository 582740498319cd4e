// SPDX-License-Identifier: BSD-3-Clause

// What a router refuses: the text names the argument and the numbers, and nothing is written.

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/buffer.hpp"
#include "support/catch.hpp"
#include "support/mixture_run.hpp"
#include "support/softmax_errors.hpp"

using namespace heed_test;
using heed::mixture_of_head::routing;

namespace {

struct good {
  buffer<float> routed = buffer<float>::input({2, 5, 7, 1}), shared = buffer<float>::input({2, 3, 7, 1}),
                mix = buffer<float>::input({2, 2, 7, 1}), q = buffer<float>::input({2, 8, 7, 4}),
                gates = buffer<float>::output({2, 8, 7, 1});
};

void check_text(const std::string& text, const std::vector<std::string>& must, const good& x) {
  INFO(text);
  CHECK_FALSE(text.empty());
  CHECK(x.gates.untouched());
  for (const std::string& word : must) {
    INFO("must say " << word);
    CHECK(text.find(word) != std::string::npos);
  }
}

void trained_refused(
    const std::vector<std::string>& must, routing how,
    const std::function<void(good&, heads_in<float>&, heads_in<float>&, heads_in<float>&, heads_out<float>&)>& bend =
        [](auto&&...) {}) {
  good x;
  heads_in<float> routed(x.routed.view3()), shared(x.shared.view3()), mix(x.mix.view3());
  heads_out<float> gates = x.gates.view3();
  bend(x, routed, shared, mix, gates);
  check_text(thrown_by([&] { run_route_trained<float>(routed, shared, mix, how, gates); }), must, x);
}
void norm_refused(
    const std::vector<std::string>& must, routing how,
    const std::function<void(good&, input<float>&, heads_out<float>&)>& bend = [](auto&&...) {}) {
  good x;
  input<float> q = x.q.cview();
  heads_out<float> gates = x.gates.view3();
  bend(x, q, gates);
  check_text(thrown_by([&] { run_route_by_norm<float>(q, how, gates); }), must, x);
}

}  // namespace

TEST_CASE("counts that do not fit") {
  trained_refused({"routing.shared is -1", "0 to 8"}, {.shared = -1, .active = 2});
  trained_refused({"routing.shared is 9", "0 to 8"}, {.shared = 9, .active = 0});
  trained_refused({"routing.active is -1", "0 to 5"}, {.shared = 3, .active = -1});
  trained_refused({"routing.active is 6", "0 to 5"}, {.shared = 3, .active = 6});
  trained_refused({"routing.active is 0", "routing.shared", "3", "8"}, {.shared = 3, .active = 0});
  norm_refused({"routing.shared is 9", "0 to 8"}, {.shared = 9, .active = 0});
  norm_refused({"routing.active is 6", "0 to 5"}, {.shared = 3, .active = 6});
  norm_refused({"routing.active is -2", "0 to 8"}, {.shared = 0, .active = -2});
  constexpr index_t least = std::numeric_limits<index_t>::min(), most = std::numeric_limits<index_t>::max();
  trained_refused({"routing.shared is -9223372036854775808", "0 to 8"}, {.shared = least, .active = most});
  norm_refused({"routing.active is -9223372036854775808", "0 to 5"}, {.shared = 3, .active = least});
}

TEST_CASE("logits of the wrong shape, or none where the routing reads them") {
  constexpr routing how{.shared = 3, .active = 2};
  trained_refused({"routed_logits has heads 5", "needs 4", "gates has 8"},
                  {.shared = 4, .active = 2});  // 5 routed heads, 4 expected
  trained_refused({"shared_logits", "3", "4"}, {.shared = 4, .active = 2},
                  [](auto& x, auto& routed, auto&, auto&, auto&) {
                    routed = {x.routed.view3().data(), {2, 4, 7}, {35, 7, 1}};
                  });
  trained_refused({"routed_logits is null"}, how, [](auto&, auto& r, auto&, auto&, auto&) { r = {}; });
  trained_refused({"shared_logits is null"}, how, [](auto&, auto&, auto& s, auto&, auto&) { s = {}; });
  trained_refused({"mix_logits is null"}, how, [](auto&, auto&, auto&, auto& m, auto&) { m = {}; });
  trained_refused({"mix_logits", "3", "2"}, how, [](auto&, auto&, auto& s, auto& m, auto&) { m = s; });
  trained_refused({"routed_logits has batch 1", "gates has 2"}, how, [](auto& x, auto& r, auto&, auto&, auto&) {
    r = {x.routed.view3().data(), {1, 5, 7}, {35, 7, 1}};
  });
  trained_refused({"routed_logits has queries 6", "gates has 7"}, how, [](auto& x, auto& r, auto&, auto&, auto&) {
    r = {x.routed.view3().data(), {2, 5, 6}, {35, 7, 1}};
  });
  trained_refused({"shared_logits is null"}, {.shared = 8, .active = 0},
                  [](auto&, auto&, auto& s, auto&, auto&) { s = {}; });
  norm_refused({"q has heads 7", "gates has 8"}, {.shared = 3, .active = 2}, [](auto& x, auto& q, auto&) {
    q = {x.q.cview().data(), {2, 7, 7, 4}, {224, 28, 4, 1}};
  });
  norm_refused({"q has batch 1", "gates has 2"}, {.shared = 3, .active = 2}, [](auto& x, auto& q, auto&) {
    q = {x.q.cview().data(), {1, 8, 7, 4}, {224, 28, 4, 1}};
  });
  norm_refused({"q has queries 6", "gates has 7"}, {.shared = 3, .active = 2}, [](auto& x, auto& q, auto&) {
    q = {x.q.cview().data(), {2, 8, 6, 4}, {224, 28, 4, 1}};
  });
  norm_refused({"q has stride 4", "last axis"}, {.shared = 3, .active = 2}, [](auto& x, auto& q, auto&) {
    q = {x.q.cview().data(), {2, 8, 7, 4}, {224, 28, 1, 4}};
  });
  norm_refused({"q is null"}, {.shared = 3, .active = 2}, [](auto&, auto& q, auto&) {
    q = {nullptr, {2, 8, 7, 4}, {224, 28, 4, 1}};
  });
}

TEST_CASE("gates that cannot be written, or are the logits") {
  constexpr routing how{.shared = 3, .active = 2};
  trained_refused({"gates is null"}, how, [](auto&, auto&, auto&, auto&, auto& g) {
    g = {nullptr, {2, 8, 7}, {56, 7, 1}};
  });
  trained_refused({"gates", "stride 0", "axis 1"}, how, [](auto& x, auto&, auto&, auto&, auto& g) {
    g = {x.gates.view3().data(), {2, 8, 7}, {56, 0, 1}};
  });
  trained_refused({"gates is the same memory as mix_logits"}, how, [](auto& x, auto&, auto&, auto& m, auto&) {
    m = {x.gates.view3().data(), {2, 2, 7}, {14, 7, 1}};
  });
  norm_refused({"gates", "stride 0", "axis 0"}, how, [](auto& x, auto&, auto& g) {
    g = {x.gates.view3().data(), {2, 8, 7}, {0, 7, 1}};
  });
  norm_refused({"gates is the same memory as q"}, how, [](auto& x, auto& q, auto&) {
    q = {x.gates.view3().data(), {2, 8, 7, 1}, {56, 7, 1, 1}};
  });
}

TEST_CASE("queries of no columns are all as long: the first heads are kept") {
  good x;
  const heads_out<float> gates(x.gates.view3().data(), {1, 2, 1}, {2, 1, 1});
  const index_t far = std::numeric_limits<index_t>::max();
  run_route_by_norm<float>({nullptr, {1, 2, 1, 0}, {far, far, far, 1}}, {.shared = 0, .active = 1}, gates);
  CHECK((gates.data()[0] == 1 && gates.data()[1] == 0));
}

TEST_CASE("logits that the routing does not read may be null") {
  good x;
  const heads_in<float> routed(x.routed.view3()), mix(x.mix.view3());
  const auto first = [&](index_t heads) { return heads_out<float>(x.gates.view3().data(), {2, heads, 7}, {56, 7, 1}); };
  run_route_trained<float>(routed, {}, mix, {.shared = 1, .active = 2}, first(6));
  run_route_trained<float>(routed, {}, {}, {.shared = 0, .active = 2}, first(5));
  run_route_trained<float>({}, heads_in<float>(x.shared.view3()), {}, {.shared = 3, .active = 0}, first(3));
  CHECK_FALSE(x.gates.untouched());
}
