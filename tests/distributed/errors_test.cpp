// SPDX-License-Identifier: BSD-3-Clause

// What goes wrong on one rank is an error on every rank: arguments that do not fit, a rank that fails, one that does
// not come. Nothing hangs, and before all agree nothing is written.

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "heed/distributed.hpp"
#include "support/catch.hpp"
#include "support/ranks.hpp"

using namespace heed_test;
using heed::distributed::cut;

namespace {

// What a rank may do otherwise than the others
struct arguments {
  index_t batch = 1, heads = 4, kv_heads = 2, queries = 10, keys = 10, d = 8, e = 8, kv_e = 8;
  heed::softmax::options<> opt = {};
  heed::distributed::options how = {};
  bool null_q = false;
  std::size_t workspace = 0;
};

// The text that every rank throws where rank `bad` of 4 has other arguments; says where they differ or o was written.
std::string refused(const std::function<void(arguments&)>& spoil, index_t bad = 2) {
  std::vector<std::string> notes(4);  // of each rank
  arguments spoiled;
  spoil(spoiled);
  const bool with_plan = spoiled.workspace == 0;
  const auto thrown = thrown_by_ranks(4, [&](net_of_threads& net) {
    arguments a;
    if (net.rank() == bad) spoil(a);
    const buffer<float> q = buffer<float>::input({a.batch, a.heads, a.queries, a.d}),
                        k = buffer<float>::input({a.batch, a.kv_heads, a.keys, a.d}),
                        v = buffer<float>::input({a.batch, a.kv_heads, a.keys, a.kv_e}),
                        o = buffer<float>::output({a.batch, std::max(a.heads, a.kv_heads), a.queries, a.e});
    std::vector<std::byte> scratch(a.workspace);
    auto q_view = q.cview();
    if (a.null_q) q_view = {nullptr, q_view.extents(), q_view.strides()};
    std::string said;
    if (with_plan)
      said = heed::distributed::softmax::plan_forward(net, q_view, k.cview(), v.cview(), o.view(), a.opt, a.how)
                 .problem.data();
    try {
      heed::distributed::softmax::forward(net, q_view, k.cview(), v.cview(), o.view(), a.opt, a.how,
                                          {.workspace = scratch});
    } catch (const heed::error& e) {
      std::string& note = notes[static_cast<std::size_t>(net.rank())];
      if (with_plan && said != e.what()) note = "the plan says " + said;
      if (!o.untouched()) note = "o was written";
      throw;
    }
  });
  for (const std::string& note : notes)
    if (!note.empty()) return note;
  for (const std::string& each : thrown)
    if (each != thrown[0]) return thrown[0] + " / " + each;
  return thrown[0];
}

// Threads as a network that fails on one rank when it starts to send. silent: the others are not told.
struct failing_network {
  using request = net_of_threads::request;
  net_of_threads net;
  bool fails, silent = false;

  index_t rank() const { return net.rank(); }
  index_t size() const { return net.size(); }
  request start_send(index_t to, int channel, std::span<const std::byte> bytes) {
    return fails ? throw heed::error("the network has failed") : net.start_send(to, channel, bytes);
  }
  request start_receive(index_t from, int channel, std::span<std::byte> bytes) {
    return net.start_receive(from, channel, bytes);
  }
  bool wait(request& r, std::chrono::milliseconds timeout) { return net.wait(r, timeout); }
  bool cancel(request& r) { return net.cancel(r); }
  bool all_gather(std::span<const std::byte> mine, std::span<std::byte> all, std::chrono::milliseconds timeout) {
    return net.all_gather(mine, all, timeout);
  }
  void abandon(const char* text) {
    if (!silent) net.abandon(text);
  }
};
static_assert(heed::distributed::network<failing_network>);

// One whose messages cannot be cancelled, and one that counts its ranks from 1
struct uncancelled_network : failing_network {
  bool cancel(request& r) { return failing_network::cancel(r), false; }
};
struct misnumbered_network : failing_network {
  index_t rank() const { return failing_network::rank() + 1; }
};

using clock_type = std::chrono::steady_clock;
using std::chrono::milliseconds;

}  // namespace

TEST_CASE("ranks: arguments that do not fit") {
  CHECK(refused([](arguments&) {}) == "");
  CHECK(refused([](arguments& a) { a.d = 4; }) == "rank 2 has head dim 4, rank 0 has 8");
  CHECK(refused([](arguments& a) { a.batch = 2; }) == "rank 2 has batch 2, rank 0 has 1");
  CHECK(refused([](arguments& a) { a.heads = 8; }) == "rank 2 has query heads 8, rank 0 has 4");
  CHECK(refused([](arguments& a) { a.kv_heads = 4; }) == "rank 2 has key/value heads 4, rank 0 has 2");
  CHECK(refused([](arguments& a) { a.e = a.kv_e = 4; }) == "rank 2 has value dim 4, rank 0 has 8");
  CHECK(refused([](arguments& a) { a.kv_heads = 3; }, 0).find("rank 0: ") == 0);
  CHECK(refused([](arguments& a) { a.e = 4; }, 3).find("rank 3: ") == 0);
  CHECK(refused([](arguments& a) { a.null_q = true; }) == "rank 2: q is null but has elements");
  CHECK(refused([](arguments& a) { a.opt.mask = heed::causal(); }) == "rank 2 has mask 1, rank 0 has 0");
  CHECK(refused([](arguments& a) { a.opt.scale = 0.5; }).find("rank 2 has scale 0.5, rank 0 has 0.35355") == 0);
  CHECK(refused([](arguments& a) { a.opt.scale = -1; }).find("rank 2 has scale -1, rank 0 has 0.35355") == 0);
  CHECK(refused([](arguments& a) { a.opt.softcap = 2; }) == "rank 2 has softcap 2, rank 0 has 0");
  CHECK(refused([](arguments& a) { a.opt.alibi_slopes = 1; }) == "rank 2 has other alibi_slopes than rank 0");
  CHECK(refused([](arguments& a) { a.opt.sink_logits = 1; }) == "rank 2 has other sink_logits than rank 0");
  CHECK(refused([](arguments& a) { a.how.cut = cut::zigzag; }) == "rank 2 has cut 1, rank 0 has 0");
  CHECK(refused([](arguments& a) { a.opt.align = heed::top_left; }) == "rank 2 has align 1, rank 0 has 0");
}

TEST_CASE("ranks: what is not taken over ranks") {
  static const std::vector<std::int32_t> one{5};
  static const std::vector<float> numbers(1000);
  const auto says = [](const std::function<void(arguments&)>& spoil, const char* text) {
    const std::string said = refused(spoil);
    INFO(said);
    CHECK(said == std::string("rank 2: ") + text);
  };
  says([](arguments& a) { a.opt.mask = heed::key_lengths(one); },
       "the mask over ranks is none, causal or window; packed, lengths, segments and others are not taken");
  says([](arguments& a) { a.opt.mask = heed::window(3, 0, 2); }, "window: keep_first is 2, must be 0 over ranks");
  says([](arguments& a) { a.opt.align = heed::first_place(one); }, "align is bottom_right or top_left over ranks");
  says([](arguments& a) { a.opt.bias = heed::bhsd(numbers.data(), 1, 1, 10, 10); }, "bias is not taken over ranks");
  says([](arguments& a) { a.opt.score = [](float s, const heed::position&) { return s; }; },
       "score is not taken over ranks");
  says([](arguments& a) { a.how.timeout = milliseconds(0); }, "timeout is 0 ms, must be more than 0");
  says([](arguments& a) { a.how.cut = cut::zigzag, a.keys = 12; },
       "zigzag: q has 10 tokens, k has 12, must be as many");
  says([](arguments& a) { a.how.cut = cut::zigzag, a.how.first_chunk = 11; }, "first_chunk is 11, must be -1 to 10");
}

TEST_CASE("ranks: a workspace that is too small, a type and a verb of its own") {
  const std::string text = refused([](arguments& a) { a.workspace = 8; });
  INFO(text);
  CHECK(text.find("context.workspace has 8 bytes, must have at least") != std::string::npos);

  const buffer<float> x = buffer<float>::input({1, 1, 4, 8});
  const buffer<double> y = buffer<double>::input({1, 1, 4, 8});
  for (const bool linear : {false, true}) {
    const auto thrown = thrown_by_ranks(3, [&](net_of_threads& net) {
      const buffer<float> o = buffer<float>::output({1, 1, 4, 8});
      const buffer<double> p = buffer<double>::output({1, 1, 4, 8});
      if (net.rank() != 1)
        heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view());
      else if (linear)
        heed::distributed::linear::forward(net, x.cview(), x.cview(), x.cview(), o.view());
      else
        heed::distributed::softmax::forward(net, y.cview(), y.cview(), y.cview(), p.view());
    });
    for (const std::string& each : thrown)
      CHECK(each == (linear ? "rank 1 makes another call than rank 0" : "rank 1 has a q of type 8, rank 0 has 4"));
  }
}

TEST_CASE("ranks: one that does not come, and one that leaves in the middle") {
  const buffer<float> x = buffer<float>::input({1, 1, 40, 8});
  for (const bool middle : {false, true}) {
    std::vector<double> waited(3);
    const auto thrown = thrown_by_ranks(3, [&](net_of_threads& net) {
      const buffer<float> o = buffer<float>::output({1, 1, 40, 8});
      const heed::distributed::options how{.timeout = milliseconds(200)};
      if (net.rank() == 1 && middle) {  // agrees, and then is gone
        failing_network bad{net, true, true};
        try {
          heed::distributed::softmax::forward(bad, x.cview(), x.cview(), x.cview(), o.view(), {}, how);
        } catch (const heed::error&) {
          return;
        }
        throw std::runtime_error("the network has not failed");
      }
      if (net.rank() == 1) return;
      const auto begin = clock_type::now();
      try {
        heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view(), {}, how);
      } catch (...) {
        waited[static_cast<std::size_t>(net.rank())] = std::chrono::duration<double>(clock_type::now() - begin).count();
        if (!o.canaries_alive()) throw std::runtime_error("memory outside o was written");
        throw;
      }
    });
    CHECK(thrown[1].empty());
    for (const std::size_t r : {std::size_t{0}, std::size_t{2}}) {
      INFO(thrown[r]);
      CHECK(thrown[r].find("ms") != std::string::npos);
      CHECK(waited[r] < 10);  // seconds, on a machine that does other work
    }
  }
}

TEST_CASE("ranks: a network that fails in the middle is closed on every rank") {
  const buffer<float> x = buffer<float>::input({1, 1, 40, 8});
  const std::vector<float> slopes{0.5f};
  for (const bool lightning : {false, true}) {
    const auto begin = clock_type::now();
    const auto thrown = thrown_by_ranks(3, [&](net_of_threads& net) {
      failing_network bad{net, net.rank() == 1};
      const buffer<float> o = buffer<float>::output({1, 1, 40, 8});
      const auto call = [&] {
        if (lightning)
          heed::distributed::lightning::forward(bad, x.cview(), x.cview(), x.cview(), slopes, o.view());
        else
          heed::distributed::softmax::forward(bad, x.cview(), x.cview(), x.cview(), o.view());
      };
      std::string first;
      try {
        call();
      } catch (const heed::error& e) {
        first = e.what();
      }
      bad.fails = false;
      try {
        call();
      } catch (const heed::error& e) {
        throw std::runtime_error(first + ", then " + e.what());
      }
    });
    const std::string closed = "a call over ranks was left by an exception";
    for (std::size_t r = 0; r < 3; ++r)
      CHECK(thrown[r] == (r == 1 ? "the network has failed" : closed) + ", then " + closed);
    CHECK(std::chrono::duration<double>(clock_type::now() - begin).count() < 30);  // not the timeout, a minute
  }
}

TEST_CASE("ranks: messages that cannot be cancelled, and ranks that are misnumbered") {
  const buffer<float> x = buffer<float>::input({1, 1, 40, 8});
  const auto thrown = thrown_by_ranks(2, [&](net_of_threads& net) {
    uncancelled_network bad{{net, net.rank() == 1}};
    std::vector<std::byte> scratch(1 << 20);  // memory of heed's own would stay allocated
    const buffer<float> o = buffer<float>::output({1, 1, 40, 8});
    heed::distributed::softmax::forward(bad, x.cview(), x.cview(), x.cview(), o.view(), {}, {}, {.workspace = scratch});
  });
  CHECK(thrown[0] == "a call over ranks was left by an exception");
  CHECK(thrown[1] == "the network has failed");
  const auto misnumbered = thrown_by_ranks(1, [&](net_of_threads& net) {
    misnumbered_network bad{{net, false}};
    const buffer<float> o = buffer<float>::output({1, 1, 40, 8});
    heed::distributed::softmax::forward(bad, x.cview(), x.cview(), x.cview(), o.view());
  });
  CHECK(misnumbered[0] == "network: rank 1 of 1, must be 0 to size - 1");
}

TEST_CASE("ranks: windows of their own") {
  const buffer<float> x = buffer<float>::input({1, 1, 4, 8});
  for (const bool left : {false, true}) {
    const auto thrown = thrown_by_ranks(2, [&](net_of_threads& net) {
      const buffer<float> o = buffer<float>::output({1, 1, 4, 8});
      const index_t r = net.rank();
      heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view(),
                                          {.mask = left ? heed::window(3 + r, 2) : heed::window(3, 2 + r)});
    });
    for (const std::string& each : thrown)
      CHECK(each == (left ? "rank 1 has window to the left 4, rank 0 has 3"
                          : "rank 1 has window to the right 3, rank 0 has 2"));
  }
}

TEST_CASE("ranks: a plan beside a call, and a timeout of all time") {
  const buffer<float> x = buffer<float>::input({1, 1, 4, 8});
  const auto thrown = thrown_by_ranks(2, [&](net_of_threads& net) {
    const buffer<float> o = buffer<float>::output({1, 1, 4, 8});
    const heed::distributed::options how{.timeout = milliseconds::max()};
    if (net.rank() == 1) std::this_thread::sleep_for(milliseconds(50));  // the other one waits
    heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view(), {}, how);
    if (net.rank() == 0) {
      const heed::plan plan = heed::distributed::softmax::plan_forward(net, x.cview(), x.cview(), x.cview(), o.view());
      throw std::runtime_error(plan.problem.data());
    }
    heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view(), {}, how);
  });
  for (const std::string& each : thrown) CHECK(each == "rank 1 makes another call than rank 0");
}

TEST_CASE("ranks: work that fails on one of them") {
  // a feature map that throws on one rank, in the middle of the call
  const buffer<float> x = buffer<float>::input({1, 2, 20, 8});
  const auto thrown = thrown_by_ranks(4, [&](net_of_threads& net) {
    const buffer<float> o = buffer<float>::output({1, 2, 20, 8});
    const bool bad = net.rank() == 2;
    const auto phi = [bad](float y) { return bad ? throw std::runtime_error("phi has failed") : y + 1; };
    const auto slope = [](float) { return 1.0f; };
    try {
      heed::distributed::linear::forward(net, x.cview(), x.cview(), x.cview(), o.view(),
                                         {.mask = heed::causal(), .feature = heed::feature_map<float>(phi, slope)});
    } catch (const heed::error&) {
      if (bad) throw std::runtime_error("not what phi threw");
      if (!o.canaries_alive()) throw std::runtime_error("memory outside o was written");
      throw;
    }
  });
  for (std::size_t r = 0; r < 4; ++r) CHECK(thrown[r] == (r == 2 ? "phi has failed" : "rank 2: phi has failed"));
}

TEST_CASE("ranks: work that throws what is no std::exception") {
  const buffer<float> x = buffer<float>::input({1, 2, 20, 8});
  const auto thrown = thrown_by_ranks(2, [&](net_of_threads& net) {
    const buffer<float> o = buffer<float>::output({1, 2, 20, 8});
    const bool bad = net.rank() == 1;
    const auto phi = [bad](float y) { return bad ? throw 5 : y + 1; };
    const auto slope = [](float) { return 1.0f; };
    try {
      heed::distributed::linear::forward(net, x.cview(), x.cview(), x.cview(), o.view(),
                                         {.mask = heed::causal(), .feature = heed::feature_map<float>(phi, slope)});
    } catch (int number) {
      throw std::runtime_error("phi has thrown " + std::to_string(number));
    }
  });
  CHECK(thrown[0] == "rank 1: something that is no std::exception was thrown");
  CHECK(thrown[1] == "phi has thrown 5");
}

TEST_CASE("ranks: a thread that leaves by an exception") {
  heed::distributed::thread_group group(2);
  std::string seen;
  const auto f = [&](net_of_threads net) {
    if (net.rank() == 0) throw std::runtime_error("rank 0 leaves");
    std::array<std::byte, 1> mine{};
    std::array<std::byte, 2> all{};
    try {
      net.all_gather(mine, all, std::chrono::minutes(1));
    } catch (const heed::error& e) {
      seen = e.what();
    }
  };
  CHECK_THROWS_WITH(group.run(f), "rank 0 leaves");
  CHECK(seen == "another rank has left by an exception");
}

TEST_CASE("ranks: threads as a network") {
  CHECK_THROWS_AS(heed::distributed::thread_group(0), heed::error);
  heed::distributed::thread_group group(2);
  CHECK_THROWS_AS(group.rank(2), heed::error);
  auto a = group.rank(0), b = group.rank(1);
  std::array<std::byte, 4> out{std::byte{1}}, in{};
  auto late = b.start_receive(0, 0, in);
  CHECK(!b.wait(late, milliseconds(0)));
  CHECK_THROWS_AS(a.start_send(1, 0, std::span(out).first(2)), heed::error);  // another size
  auto sent = a.start_send(1, 0, out);
  CHECK(a.wait(sent, milliseconds(0)));
  CHECK(b.wait(late, milliseconds(0)));
  CHECK(in == out);
  auto cancelled = a.start_send(1, 1, out);
  CHECK(a.cancel(cancelled));
  auto other = b.start_receive(0, 1, in);
  CHECK(!b.wait(other, milliseconds(1)));  // the send is gone
  for (const index_t to : {index_t{-1}, index_t{2}}) CHECK_THROWS_AS(a.start_send(to, 0, out), heed::error);
  for (const int channel : {-1, 1000}) CHECK_THROWS_AS(a.start_send(1, channel, out), heed::error);
  CHECK_THROWS_WITH(a.all_gather(out, in, milliseconds(0)), "thread_group: all_gather of 4 bytes into 4");
}
