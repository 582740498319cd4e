// SPDX-License-Identifier: BSD-3-Clause

// mixture_of_head::backward on executors, in workspaces, and refused.

#include <functional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/mixture_backward_case.hpp"
#include "support/recurrent_errors.hpp"
#include "support/workspaces.hpp"

using namespace heed_test;

namespace {

constexpr shape shapes[] = {
    {2, 4, 2, 150, 130, 20, 12}, {1, 1, 1, 300, 300, 16, 16}, {2, 8, 2, 3, 300, 16, 16}, {3, 16, 16, 20, 40, 8, 8}};

struct bent {
  mixture_backward_case<float> x;
  backward_tensors<float> at;
  heads_in<float> gates;
  heed::mixture_of_head::gradients<float> asked;
  heed::softmax::options<float> options;

  bent() : x({2, 4, 2, 5, 7, 8, 6}), at(x.tensors()), gates(x.gates.view3()), asked(x.asked), options(x.options) {
    x.mix();
  }
};
void refused(const char* what, const std::vector<std::string>& must, const std::function<void(bent&)>& bend) {
  bent c;
  bend(c);
  check_refusal(
      what, run_mixture_plan_backward<float>(c.at, c.gates, c.asked, c.options, {}),
      [&] { run_mixture_backward<float>(c.at, c.gates, c.asked, c.options, {}); }, must);
  INFO(what);
  CHECK((c.x.dq.untouched() && c.x.dk.untouched() && c.x.dv.untouched() && c.x.dgates.untouched()));
}

}  // namespace

TEST_CASE("gradients of mixture of head have the same bits for 1 to 5 workers in any order") {
  for (const shape& s : shapes)
    for (const gating how : {gating::random, gating::clustered, gating::few}) {
      INFO(to_string(s) << ", " << name_of(how));
      mixture_backward_case<float> serial(s, how, {.mask = heed::causal()});
      check_mixture(serial);
      for (index_t workers = 1; workers <= 5; ++workers)
        for (const order in : {order::reversed, order::shuffled})
          for (const bool threads : {false, true}) {
            if (thinning > 1 && (in != order::shuffled || workers == 1)) continue;
            INFO(workers << " workers");
            test_executor executor(workers, in, threads);
            mixture_backward_case<float> x(s, how, {.mask = heed::causal()});
            x.mix(), x.mix_back({.executor = executor});
            CHECK(same_mixture_gradients(x, serial));
            CHECK_FALSE(executor.asked_too_much());
          }
    }
}

TEST_CASE("backward of mixture of head does not allocate in the planned workspace, for any gates") {
  for (const shape& s : shapes)
    for (const index_t workers : {1, 3})
      for (const gating how : gatings) {
        mixture_backward_case<float> x(s, how), y(s, how);
        check_mixture(y);
        x.mix();
        const verb_in verb{[&](const heed::context& where) { return x.mix_back_plan(where); },
                           [&](const heed::context& where) { x.mix_back(where); }};
        check_workspaces(
            verb, workers, [&] { x.poison_gradients(), x.dgates.poison(); },
            [&] { return same_mixture_gradients(x, y); });
      }
}

TEST_CASE("bad calls of backward of mixture of head throw the text of their plan before anything is written") {
  bent good;
  CHECK(text_of_error([&] { good.x.mix_back(); }) == "");
  refused("heads of gates", {"gates", "q", "4", "2"}, [](bent& c) { c.gates = with(c.gates, 1, 2); });
  refused("queries of gates", {"gates", "q", "5", "6"}, [](bent& c) { c.gates = with(c.gates, 2, 6); });
  refused("null gates", {"gates", "null"}, [](bent& c) { c.gates = at<const float>(c.gates, nullptr); });
  refused("batch of dgates", {"dgates", "gates", "2", "1"},
          [](bent& c) { c.asked.dgates = with(c.asked.dgates, 0, 1); });
  refused("dgates in one place", {"dgates", "0"},
          [](bent& c) { c.asked.dgates = {c.asked.dgates.data(), {2, 4, 5}, {20, 5, 0}}; });
  refused("dgates is gates", {"dgates", "gates"},
          [](bent& c) { c.asked.dgates = at<float>(c.asked.dgates, c.x.gates.view().data()); });
  refused("dgates is lse", {"dgates", "lse"},
          [](bent& c) { c.asked.dgates = at<float>(c.asked.dgates, c.x.lse.view().data()); });
  refused("dgates is dq", {"dgates", "dq"},
          [](bent& c) { c.asked.dgates = at<float>(c.asked.dgates, c.x.dq.view().data()); });
  refused("dq is gates", {"dq", "gates"}, [](bent& c) { c.asked.dq = at<float>(c.asked.dq, c.x.gates.view().data()); });
  refused("dv is o", {"dv", "o"}, [](bent& c) { c.asked.dv = at<float>(c.asked.dv, c.x.o.view().data()); });
  refused("more heads of k", {"q", "k", "4", "8"},
          [](bent& c) { c.at.k = with(c.at.k, 1, 8), c.at.v = with(c.at.v, 1, 8); });
  refused("no derivative", {"score", "derivative"},
          [](bent& c) { c.options.score = [](float s, const heed::position&) { return 2 * s; }; });
  refused("dim of dout", {"dout", "o", "6", "5"}, [](bent& c) { c.at.dout = with(c.at.dout, 3, 5); });
}
