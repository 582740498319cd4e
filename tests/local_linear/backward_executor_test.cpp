// SPDX-License-Identifier: BSD-3-Clause

// local_linear::backward on executors and in workspaces; bad calls; exceptions of the caller's functions.

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/local_linear_backward_case.hpp"
#include "support/recurrent_errors.hpp"
#include "support/throwing.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {{2, 4, 2, 70, 90, 20, 12},
                            {1, 1, 1, 150, 150, 16, 16},
                            {1, 2, 6, 40, 50, 8, 8},
                            {1, 1, 1, 60, 20, 8, 8},
                            {2, 2, 2, 3, 9, 64, 5}};

auto in_context(local_linear_backward<float>& x) {
  return verb_in{[&x](const heed::context& where) { return x.backward_plan(where); },
                 [&x](const heed::context& where) { x.backward(where); }};
}

template <class T> void any_executor() {
  for (const shape& s : shapes)
    for (const solver how : solvers)
      for (const bool anew : {false, true}) {
        INFO(to_string(s) << ", " << name_of(how));
        const heed::local_linear::options<T> options{.mask = heed::causal(), .solver = how};
        local_linear_backward<T> serial(s, 0.5, options);
        if (anew) serial.forget();
        serial.forward(), serial.backward();
        for (const index_t workers : {1, 2, 3, 5})
          for (const bool threads : {false, true}) {
            if (thinning > 1 && (workers != 3 || !threads)) continue;
            INFO(workers << " workers");
            test_executor executor(workers, order::shuffled, threads);
            local_linear_backward<T> x(s, 0.5, options);
            if (anew) x.forget();
            x.forward(), x.backward({.executor = executor});
            CHECK(same_gradients(x, serial));
            CHECK(x.report->max_residual == serial.report->max_residual);
            CHECK(x.report->unconverged == serial.report->unconverged);
            CHECK_FALSE(executor.asked_too_much());
          }
      }
}

struct bent {
  std::vector<float> bias;
  local_linear_backward<float> x;
  fitted_tensors<float> at;
  heed::per_head ridge = 0.5;
  heed::local_linear::gradients<float> wanted;
  heed::local_linear::options<float> options;

  bent()
      : bias(140, 0.5f),
        x({2, 4, 2, 5, 7, 8, 6}, 0.5, {.bias = {bias.data(), {1, 4, 5, 7}, {0, 35, 7, 1}}}),
        at(x.tensors()),
        wanted(x.wanted),
        options(x.options) {
    x.forward();
  }
};
void refused(const char* what, const std::vector<std::string>& must, const std::function<void(bent&)>& bend) {
  bent c;
  bend(c);
  check_refusal(
      what, run_plan_backward<float>(c.at, c.ridge, c.wanted, c.options, {}),
      [&] { run_backward<float>(c.at, c.ridge, c.wanted, c.options, {}); }, must);
  INFO(what);
  bool untouched = true;
  for (const buffer<float>* each : {&c.x.dq, &c.x.dk, &c.x.dv, &c.x.dbias, &c.x.dridge})
    untouched = untouched && each->untouched();
  CHECK(untouched);
}
void accepted(const char* what, const std::function<void(bent&)>& bend) {
  bent c;
  bend(c);
  INFO(what);
  CHECK(text_of_error([&] { run_backward<float>(c.at, c.ridge, c.wanted, c.options, {}); }) == "");
  CHECK(run_plan_backward<float>(c.at, c.ridge, c.wanted, c.options, {}).ok());
}

}  // namespace

TEST_CASE("local linear: gradients have the same bits for any executor, float") { any_executor<float>(); }
TEST_CASE("local linear: gradients have the same bits for any executor, double") { any_executor<double>(); }

TEST_CASE("local linear: backward in workspaces: nothing is allocated there, whatever their alignment and content") {
  for (const shape& s : shapes)
    for (const solver how : solvers)
      for (const index_t workers : {1, 3})
        for (const bool anew : {false, true}) {
          if (thinning > 1 && (workers == 1 || anew)) continue;
          INFO(to_string(s) << ", " << name_of(how));
          local_linear_backward<float> x(s, 0.5, {.mask = heed::causal(), .solver = how}), y(s, 0.5, x.options);
          y.options.lse = y.lse.view3(), y.options.slope = y.slope.view(), y.options.mean_key = y.mean.view();
          y.options.report = y.report.get();
          if (anew) x.forget(), y.forget();
          x.forward(), y.forward(), y.backward();
          check_workspaces(in_context(x), workers, [&] { x.poison_gradients(); }, [&] { return same_gradients(x, y); });
        }
}

TEST_CASE("local linear: backward in a workspace that is too small is an error with both numbers") {
  for (const shape& s : shapes) {
    local_linear_backward<float> x(s);
    x.forward();
    for (const index_t workers : {1, 3})
      check_small_workspace(in_context(x), workers,
                            [&] { return x.dq.untouched() && x.dk.untouched() && x.dv.untouched(); });
  }
}

TEST_CASE("local linear: what functions throw reaches the caller of backward") {
  const auto call = [](auto& x, const heed::context& where) { x.backward(where); };
  const auto equal = [](const auto& a, const auto& b) { return same_gradients(a, b); };
  const shape s{2, 2, 1, 30, 25, 8, 8};
  const auto identity = [](float x, const heed::position&) { return x; };
  const auto derived = [&](fuse& f) {
    local_linear_backward<float> x(s, 0.5, {.score = {identity, [](float, const heed::position&) { return 1.f; }}});
    x.forward();
    x.options.score = {identity, [&f](float, const heed::position&) { return f.burn(), 1.f; }};
    return x;
  };
  CHECK(mishandled_anywhere(derived, call, equal) == "");
}

TEST_CASE("local linear: bad calls of backward throw the text of their plan before anything is written") {
  accepted("all gradients", [](bent&) {});
  accepted("none", [](bent& c) { c.wanted = {}; });
  accepted("anew", [](bent& c) { c.options.lse = {}, c.options.slope = {}, c.options.mean_key = {}; });
  refused("batch of k", {"q", "k", "2", "3"}, [](bent& c) { c.at.k = with(c.at.k, 0, 3); });
  refused("heads", {"q", "k", "4", "3"}, [](bent& c) { c.at.k = with(c.at.k, 1, 3), c.at.v = with(c.at.v, 1, 3); });
  refused("keys of v", {"k", "v", "7", "6"}, [](bent& c) { c.at.v = with(c.at.v, 2, 6); });
  refused("stride of q", {"q", "2", "1"}, [](bent& c) { c.at.q = strided(c.at.q), c.at.k = with(c.at.k, 3, 4); });
  refused("ridge 0", {"ridge", "0"}, [](bent& c) { c.ridge = 0; });
  refused("tolerance", {"tolerance", "-1"}, [](bent& c) { c.options.tolerance = -1; });
  refused("batch of dout", {"dout", "2", "1"}, [](bent& c) { c.at.dout = with(c.at.dout, 0, 1); });
  refused("heads of dout", {"dout", "4", "2"}, [](bent& c) { c.at.dout = with(c.at.dout, 1, 2); });
  refused("queries of dout", {"dout", "5", "6"}, [](bent& c) { c.at.dout = with(c.at.dout, 2, 6); });
  refused("dim of dout", {"dout", "6", "5"}, [](bent& c) { c.at.dout = with(c.at.dout, 3, 5); });
  refused("null dout", {"dout", "null"}, [](bent& c) { c.at.dout = at<const float>(c.at.dout, nullptr); });
  refused("heads of dq", {"dq", "q", "4", "2"}, [](bent& c) { c.wanted.dq = with(c.wanted.dq, 1, 2); });
  refused("keys of dk", {"dk", "k", "7", "5"}, [](bent& c) { c.wanted.dk = with(c.wanted.dk, 2, 5); });
  refused("dim of dv", {"dv", "v", "6", "8"}, [](bent& c) { c.wanted.dv = with(c.wanted.dv, 3, 8); });
  refused("keys of dbias", {"dbias", "bias", "7", "1"}, [](bent& c) { c.wanted.dbias = with(c.wanted.dbias, 3, 1); });
  refused("entries of dridge", {"dridge", "4", "3"}, [](bent& c) { c.wanted.dridge = with(c.wanted.dridge, 0, 3); });
  refused("dk with every key in one place", {"dk", "0"}, [](bent& c) {
    c.wanted.dk = {c.wanted.dk.data(), {2, 2, 7, 8}, {c.wanted.dk.stride(0), c.wanted.dk.stride(1), 0, 1}};
  });
  refused("dridge in one place", {"dridge", "0"},
          [](bent& c) { c.wanted.dridge = {c.wanted.dridge.data(), {4}, {0}}; });
  refused("slope of another shape", {"slope", "5", "4"},
          [](bent& c) { c.options.slope = with(c.options.slope, 2, 4); });
  refused("lse of another shape", {"lse", "4", "2"}, [](bent& c) { c.options.lse = with(c.options.lse, 1, 2); });
  refused("no bias", {"dbias", "bias"}, [](bent& c) { c.options.bias = {}; });
  refused("no derivative", {"score", "derivative"},
          [](bent& c) { c.options.score = [](float s, const heed::position&) { return 2 * s; }; });
  const auto data = [](const buffer<float>& x) { return x.view().data(); };
  refused("dq is q", {"dq", "q"}, [&](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, data(c.x.q)); });
  refused("dq is slope", {"dq", "slope"}, [&](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, data(c.x.slope)); });
  refused("dq is mean_key", {"dq", "mean_key"}, [&](bent& c) { c.wanted.dq = at<float>(c.wanted.dq, data(c.x.mean)); });
  refused("dv is dout", {"dv", "dout"}, [&](bent& c) { c.wanted.dv = at<float>(c.wanted.dv, data(c.x.dout)); });
  refused("dk is dv", {"dk", "dv"}, [](bent& c) { c.wanted.dk = at<float>(c.wanted.dk, c.wanted.dv.data()); });
  static std::vector<float> ridges{0.1f, 0.2f, 0.3f, 0.4f};
  refused("dridge is ridge", {"dridge", "ridge"}, [](bent& c) {
    c.ridge = ridges;
    c.wanted.dridge = {ridges.data(), {4}, {1}};
  });
}
