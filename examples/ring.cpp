// SPDX-License-Identifier: BSD-3-Clause
//
// Runs causal softmax attention, forward and backward, and lightning attention over one sequence that is cut among 4
// ranks, and compares each rank's rows with a call on the whole sequence. The ranks are threads of this process:
//   g++ -std=c++20 -O2 -march=native -pthread -I include ring.cpp && ./a.out
// With -DWITH_MPI they are processes, on one machine or several:
//   mpicxx -DWITH_MPI -std=c++20 -O2 -march=native -pthread -I include ring.cpp && mpirun -n 4 ./a.out
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <vector>

#include "heed/distributed.hpp"
#if defined(WITH_MPI)
#include "heed/interop/mpi.hpp"
#endif

namespace {

using heed::index_t;
constexpr index_t heads = 4, kv_heads = 2, tokens = 1024, dim = 32;

struct tensor {  // (1, heads, tokens, dim)
  index_t heads, tokens;
  std::vector<float> numbers = std::vector<float>(static_cast<std::size_t>(heads * tokens * dim));

  auto view() { return heed::bhsd(numbers.data(), 1, heads, tokens, dim); }
};

// A real program loads only its own tokens. Here every rank makes the whole sequence, to compare with.
tensor random_tensor(index_t head_count, std::uint32_t seed) {
  tensor x{head_count, tokens};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::generate(x.numbers.begin(), x.numbers.end(), [&] { return normal(random); });
  return x;
}

using token_ranges = std::array<heed::distributed::token_range, 2>;

tensor part_of(tensor& whole, const token_ranges& mine) {
  tensor part{whole.heads, mine[0].count + mine[1].count};
  const auto from = whole.view(), to = part.view();
  for (index_t h = 0; h < whole.heads; ++h) {
    index_t row = 0;
    for (const auto& range : mine)
      for (index_t i = 0; i < range.count; ++i, ++row)
        for (index_t d = 0; d < dim; ++d) to(0, h, row, d) = from(0, h, range.first + i, d);
  }
  return part;
}

void compare(const char* what, index_t rank, const tensor& part, const tensor& expected) {
  float difference = 0;
  for (std::size_t i = 0; i < part.numbers.size(); ++i)
    difference = std::max(difference, std::abs(part.numbers[i] - expected.numbers[i]));
  std::printf("rank %td: %s, %td tokens: largest difference %.1e\n", rank, what, part.tokens,
              static_cast<double>(difference));
  if (!(difference < 1e-3f)) throw std::runtime_error("a rank differs from the whole");
}

template <heed::distributed::network Network> void run_rank(Network& net) {
  tensor q = random_tensor(heads, 1), k = random_tensor(kv_heads, 2), v = random_tensor(kv_heads, 3),
         dout = random_tensor(heads, 4), o{heads, tokens}, dk{kv_heads, tokens};
  std::vector<float> lse(heads * tokens);
  heed::softmax::options<> options{.mask = heed::causal(), .lse = heed::contiguous(lse.data(), {1, heads, tokens})};
  heed::softmax::forward(q.view(), k.view(), v.view(), o.view(), options);
  heed::softmax::backward(q.view(), k.view(), v.view(), o.view(), dout.view(), {.dk = dk.view()}, options);

  // Zig-zag gives every rank an early and a late part of the sequence, and so as much causal work.
  using heed::distributed::cut;
  const heed::distributed::options how{.cut = cut::zigzag};
  const auto mine = heed::distributed::tokens_of(how.cut, tokens, net.size(), net.rank());
  tensor my_q = part_of(q, mine), my_k = part_of(k, mine), my_v = part_of(v, mine), my_dout = part_of(dout, mine),
         my_o{heads, my_q.tokens}, my_dk{kv_heads, my_q.tokens};
  std::vector<float> my_lse(static_cast<std::size_t>(heads * my_q.tokens));
  options.lse = heed::contiguous(my_lse.data(), {1, heads, my_q.tokens});
  heed::distributed::softmax::forward(net, my_q.view(), my_k.view(), my_v.view(), my_o.view(), options, how);
  compare("softmax o", net.rank(), my_o, part_of(o, mine));
  heed::distributed::softmax::backward(net, my_q.view(), my_k.view(), my_v.view(), my_o.view(), my_dout.view(),
                                       {.dk = my_dk.view()}, options, how);
  compare("softmax dk", net.rank(), my_dk, part_of(dk, mine));
  const heed::plan plan =
      heed::distributed::softmax::plan_forward(net, my_q.view(), my_k.view(), my_v.view(), my_o.view(), options, how);
  std::printf("%s\n", plan.why.data());

  // Lightning attention passes a state of fixed size on; its cut is contiguous.
  const auto slopes = heed::alibi_slopes(heads);
  const auto run = heed::distributed::tokens_of(cut::contiguous, tokens, net.size(), net.rank());
  tensor run_q = part_of(q, run), run_k = part_of(k, run), run_v = part_of(v, run), run_o{heads, run_q.tokens};
  heed::distributed::lightning::forward(net, run_q.view(), run_k.view(), run_v.view(), slopes, run_o.view(),
                                        {.scale = 0.1});
  heed::lightning::forward(q.view(), k.view(), v.view(), slopes, o.view(), {.scale = 0.1});
  compare("lightning o", net.rank(), run_o, part_of(o, run));
}

}  // namespace

#if defined(WITH_MPI)
int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  {
    heed::mpi_network net;
    run_rank(net);
  }
  MPI_Finalize();
}
#else
int main() {
  heed::distributed::thread_group ranks(4);
  ranks.run([](heed::distributed::thread_group::network net) { run_rank(net); });
}
#endif
