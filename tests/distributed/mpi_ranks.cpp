// SPDX-License-Identifier: BSD-3-Clause

// A program for mpirun: the verbs over ranks on MPI against one call on the whole sequence, messages in small pieces,
// errors on every rank, and a rank that does not come. Prints what is wrong on rank 0; 0 where nothing is.

#include <array>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "heed/distributed.hpp"
#include "heed/interop/mpi.hpp"
#include "support/ranks.hpp"

using namespace heed_test;
using heed::distributed::cut;

static_assert(heed::distributed::network<heed::mpi_network>);

namespace {

int failures = 0;
void expect(bool holds, const char* what, double number = 0) {
  if (!holds) ++failures, std::printf("wrong: %s (%g)\n", what, number);
}

void check_softmax(heed::mpi_network& net, cut how, spread of, bool causal) {
  const index_t n = 200, d = 16, heads = 4, kv_heads = 2;
  random_numbers random(7);  // the same numbers on every rank
  const buffer<float> q = buffer<float>::input({1, heads, n, d}), k = buffer<float>::input({1, kv_heads, n, d}),
                      v = buffer<float>::input({1, kv_heads, n, d}), o = buffer<float>::output(q.size()),
                      g = buffer<float>::input(q.size()), lse = buffer<float>::output({1, heads, n, 1});
  for (const buffer<float>* x : {&q, &k, &v, &g}) x->each([&](float& y) { y = static_cast<float>(random.normal()); });
  heed::softmax::options<> opt{.mask = causal ? heed::causal() : heed::mask(), .lse = lse.view3()};
  const buffer<float> dq = buffer<float>::output(q.size()), dk = buffer<float>::output(k.size()),
                      dv = buffer<float>::output(v.size());
  heed::softmax::forward(q.cview(), k.cview(), v.cview(), o.view(), opt);
  heed::softmax::backward(q.cview(), k.cview(), v.cview(), o.cview(), g.cview(),
                          {.dq = dq.view(), .dk = dk.view(), .dv = dv.view()}, opt);

  const auto tokens = ranges_of(how, of, n, net.size())[static_cast<std::size_t>(net.rank())];
  const auto part = [&](const buffer<float>& x) { return part_of(x, tokens, layout::bshd); };
  const buffer<float> ql = part(q), kl = part(k), vl = part(v), gl = part(g);
  const index_t m = count(tokens);
  const buffer<float> ol = buffer<float>::output({1, heads, m, d}), ll = buffer<float>::output({1, heads, m, 1}),
                      dql = buffer<float>::output(ql.size()), dkl = buffer<float>::output(kl.size()),
                      dvl = buffer<float>::output(vl.size());
  opt.lse = ll.view3();
  const heed::distributed::options cut_of{.cut = how, .first_chunk = how == cut::zigzag ? tokens[0].count : -1};
  heed::distributed::softmax::forward(net, ql.cview(), kl.cview(), vl.cview(), ol.view(), opt, cut_of);
  heed::distributed::softmax::backward(net, ql.cview(), kl.cview(), vl.cview(), ol.cview(), gl.cview(),
                                       {.dq = dql.view(), .dk = dkl.view(), .dv = dvl.view()}, opt, cut_of);
  expect(difference(ol, part(o)) < 5e-6, "softmax: o", difference(ol, part(o)));
  expect(difference(dql, part(dq)) < 2e-5, "softmax: dq", difference(dql, part(dq)));
  expect(difference(dkl, part(dk)) < 2e-5, "softmax: dk", difference(dkl, part(dk)));
  expect(difference(dvl, part(dv)) < 2e-5, "softmax: dv", difference(dvl, part(dv)));
  expect(ol.canaries_alive() && dql.canaries_alive() && dkl.canaries_alive(), "softmax: memory");
}

void check_lightning(heed::mpi_network& net, heed::distributed::state_pass pass) {
  const index_t n = 300, d = 16, heads = 2;
  random_numbers random(8);
  const buffer<float> q = buffer<float>::input({1, heads, n, d}), k = buffer<float>::input({1, heads, n, d}),
                      v = buffer<float>::input({1, heads, n, d}), o = buffer<float>::output(q.size());
  for (const buffer<float>* x : {&q, &k, &v}) x->each([&](float& y) { y = static_cast<float>(random.normal()); });
  heed::lightning::forward(q.cview(), k.cview(), v.cview(), heed::alibi_slopes(heads), o.view());
  const auto tokens = ranges_of(cut::contiguous, spread::ragged, n, net.size())[static_cast<std::size_t>(net.rank())];
  const buffer<float> ql = part_of(q, tokens, layout::bhsd), kl = part_of(k, tokens, layout::bhsd),
                      vl = part_of(v, tokens, layout::bhsd), ol = buffer<float>::output(ql.size());
  heed::distributed::lightning::forward(net, ql.cview(), kl.cview(), vl.cview(), heed::alibi_slopes(heads), ol.view(),
                                        {}, {.states = pass});
  const double off = difference(ol, part_of(o, tokens, layout::bhsd));
  expect(off < 2e-5, "lightning: o", off);
}

// A receive whose message has begun to come, from a sender that does nothing more for now: cancel returns all the same.
void check_cancel(heed::mpi_network& net) {
  using std::chrono::milliseconds;
  std::vector<std::byte> memory(std::size_t{1} << 26);
  if (net.rank() == 0) {
    auto sent = net.start_send(1, 7, memory);
    std::this_thread::sleep_for(milliseconds(2000));
    expect(net.wait(sent, milliseconds(60'000)), "the message does not go");
  }
  if (net.rank() != 1) return;
  auto received = net.start_receive(0, 7, memory);
  const bool came = net.wait(received, milliseconds(300));
  const auto begin = std::chrono::steady_clock::now();
  const bool cancelled = net.cancel(received);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  expect(seconds < 1, "cancel waits for the sender", seconds);
  if (!came && cancelled) received = net.start_receive(0, 7, memory);
  expect(came || net.wait(received, milliseconds(60'000)), "the message does not come");
}

// A receive that nobody sends to is cancelled at once; what MPI refuses is an error.
void check_unsent(heed::mpi_network& net) {
  std::array<std::byte, 8> memory{};
  auto received = net.start_receive(net.rank(), 8, memory);
  expect(net.cancel(received), "a receive of nothing cannot be cancelled");
  auto refused = net.start_send(net.size(), 8, memory);
  try {
    net.wait(refused, std::chrono::milliseconds(1000));
    expect(false, "a message to no rank is no error");
  } catch (const heed::error& e) {
    expect(std::string(e.what()).find("MPI_Isend: ") == 0, e.what());
  }
}

// The last rank has other shapes.
void check_refusal(heed::mpi_network& net) {
  const index_t d = net.rank() == net.size() - 1 ? 4 : 8;
  const buffer<float> x = buffer<float>::input({1, 1, 4, d}), o = buffer<float>::output({1, 1, 4, d});
  std::string said;
  try {
    heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view());
  } catch (const heed::error& e) {
    said = e.what();
  }
  expect(said == "rank " + std::to_string(net.size() - 1) + " has head dim 4, rank 0 has 8", said.c_str());
  expect(o.untouched(), "o was written before all ranks agreed");
  try {
    std::array<std::byte, 2> mine{}, all{};
    net.all_gather(mine, all, std::chrono::milliseconds(60'000));
    expect(false, "a gather into too few bytes is no error");
  } catch (const heed::error&) {
  }
}

// The last rank does not call: the others throw, and the network stays closed.
void check_timeout() {
  heed::mpi_network net;
  const buffer<float> x = buffer<float>::input({1, 1, 4, 8}), o = buffer<float>::output({1, 1, 4, 8});
  for (int call = 0; call < 2 && net.rank() != net.size() - 1; ++call) {
    bool threw = false;
    try {
      heed::distributed::softmax::forward(net, x.cview(), x.cview(), x.cview(), o.view(), {},
                                          {.timeout = std::chrono::milliseconds(300)});
    } catch (const heed::error&) {
      threw = true;
    }
    expect(threw, "a rank that does not come is no error");
  }
  // The last rank comes when the others have given up, so that MPI can end: a gather cannot be cancelled.
  MPI_Barrier(MPI_COMM_WORLD);
  if (net.rank() != net.size() - 1) return;
  const heed::distributed::detail::call_header late;
  std::vector<heed::distributed::detail::call_header> all(static_cast<std::size_t>(net.size()));
  const bool came = net.all_gather(heed::distributed::detail::bytes_of(late), std::as_writable_bytes(std::span(all)),
                                   std::chrono::milliseconds(60'000));
  expect(came, "the gather does not end");
  net.abandon("the test is over");  // as on the other ranks: all keep the communicator
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int all = 0;
  {
    heed::mpi_network net(MPI_COMM_WORLD, 1000);  // messages in pieces of 1000 bytes
    for (const cut how : {cut::contiguous, cut::zigzag})
      for (const spread of : spreads)
        for (const bool causal : {false, true}) check_softmax(net, how, of, causal);
    check_lightning(net, heed::distributed::state_pass::scan);
    check_lightning(net, heed::distributed::state_pass::chain);
    check_unsent(net);
    if (net.size() > 1) check_refusal(net);
    heed::mpi_network whole;
    check_softmax(whole, cut::zigzag, spread::even, true);
    if (net.size() > 1) check_cancel(whole);
    if (net.size() > 1) check_timeout();
    MPI_Allreduce(&failures, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (net.rank() == 0) std::printf("%td ranks, %d failures\n", net.size(), all);
  }
  MPI_Finalize();
  return all == 0 ? 0 : 1;
}
