// SPDX-License-Identifier: BSD-3-Clause
//
// Times kernels on bf16 and f16 (q, k, v and o) beside the same call on floats, where 16 bits are storage alone: rows
// are widened to float and summed in float. Rows, <type> is bf16 or f16:
//   softmax/<type>/D<D>, linear/, lightning/, local_linear/, mixture_of_head/   causal, N = 1024 (recurrent: 4096)
//   softmax/<type>/long_keys/D<D>                       128 queries, keys and values beyond the caches
//   softmax/<type>/one_query/D<D>                       one query, eight heads on one key/value head, the same keys
// x_float: how many times as fast as float. Softmax and mixture of head multiply bf16 on a matrix unit where there is
// one; HEED_UNITS=no-amx,no-dot switches it off.
#include <string>
#include <vector>

#include "heed/heed.hpp"
#include "support/half.hpp"

namespace {

using namespace heed_bench;

// Adds a row of run(tensors) on S beside floats.
template <class S, class Run> void add_storage(const std::string& kernel, const std::string& rest, shape s, Run run) {
  add(kernel + "/" + storage_name<S> + "/" + rest, [=](benchmark::State& state, const std::string& row) {
    show_progress(row);
    tensors<S> x(s);
    tensors<float> y(s);
    const double faster = time_beside(state, s.flops(), [&] { run(x); }, [&] { run(y); });
    state.counters["tokens/s"] =
        benchmark::Counter(static_cast<double>(s.n), benchmark::Counter::kIsIterationInvariantRate);
    state.counters["x_float"] = faster;
  })->UseManualTime();
}

template <class S> void add_pairwise_rows(index_t d) {
  const shape s{.n = 1024, .m = 1024, .d = d, .e = d, .mask = masking::causal};
  const auto softmax = [](auto& x) {
    heed::softmax::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), options_of<float>(x.at));
  };
  add_storage<S>("softmax", number("D", d), s, softmax);
  const shape long_keys{.n = 128, .m = 65536, .d = d, .e = d};
  add_storage<S>("softmax", number("long_keys/D", d), long_keys, softmax);
  const shape one{.n = 1, .m = 65536, .d = d, .e = d, .heads = 8};
  add_storage<S>("softmax", number("one_query/D", d), one, softmax);
  add_storage<S>("local_linear", number("D", d), s, [](auto& x) {
    heed::local_linear::forward(x.q_view(), x.k_view(), x.v_view(), 1.0, x.o_view(), {.mask = heed::causal()});
  });
  const std::vector<float> gates(static_cast<std::size_t>(s.n), 1.0f);
  add_storage<S>("mixture_of_head", number("D", d), s, [gates](auto& x) {
    const heed::tensor_view<const float, 3> view(gates.data(), {1, 1, x.at.n}, {0, 0, 1});
    heed::mixture_of_head::forward(x.q_view(), x.k_view(), x.v_view(), view, x.o_view(), {.mask = heed::causal()});
  });
}

template <class S> void add_recurrent_rows(index_t d) {
  const shape s{.n = 4096, .m = 4096, .d = d, .e = d};
  add_storage<S>("linear", number("D", d), s, [](auto& x) {
    heed::linear::forward(x.q_view(), x.k_view(), x.v_view(), x.o_view(), {.mask = heed::causal()});
  });
  add_storage<S>("lightning", number("D", d), s, [](auto& x) {
    heed::lightning::forward(x.q_view(), x.k_view(), x.v_view(), heed::alibi_slopes(1), x.o_view());
  });
}

}  // namespace

int main(int argc, char** argv) {
  for (const index_t d : {64, 128}) {
    add_pairwise_rows<heed::bf16_t>(d), add_pairwise_rows<heed::f16_t>(d);
    add_recurrent_rows<heed::bf16_t>(d), add_recurrent_rows<heed::f16_t>(d);
  }
  return run_all(argc, argv);
}
