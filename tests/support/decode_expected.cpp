// SPDX-License-Identifier: BSD-3-Clause

// What the references say of a decode: Eigen's templates take longer to compile than a test.

#include "heed/reference/mixture_of_head.hpp"
#include "support/decode_case.hpp"

namespace heed_test {

template <class T>
decode_expected<T> expected_of(const decode_case<T>& x, const heed::softmax::options<T>& options,
                               const decode_gates<T>* gates, const any_cache<T>* prefix) {
  namespace softmax = heed::reference::softmax::detail;
  decode_expected<T> all{buffer<double>::output(x.o.size()), buffer<T>::output(x.lse.size()), {}};
  all.sizes.resize(static_cast<std::size_t>(x.s.batch * x.s.out_heads() * x.s.queries));
  heed::softmax::options<T> how = options;
  how.lse = all.lse.view3();
  const auto plain = softmax::row_writer(all.o.view(), how);
  const auto gated = heed::reference::mixture_of_head::detail::row_writer(
      gates != nullptr ? *gates : decode_gates<T>(), all.o.view(), how);
  const auto row = [&](const softmax::sequence& s, index_t h, index_t i, const auto& scores, const auto& values) {
    row_size& size = all.sizes[static_cast<std::size_t>((s.batch * x.s.out_heads() + h) * x.s.queries + i)];
    for (index_t j = 0; j < scores.size(); ++j) {
      if (scores(j) == -HUGE_VAL) continue;
      size.see_score(scores(j));
      for (index_t e = 0; e < values.cols(); ++e) size.see_value(values(j, e));
    }
    if (gates != nullptr)
      gated(s, h, i, scores, values);
    else
      plain(s, h, i, scores, values);
  };
  const auto visit = [&](const auto& cache) {
    if (prefix == nullptr) return softmax::each_row(x.q.cview(), cache, how, row);
    const auto& first = std::get<std::decay_t<decltype(cache)>>(*prefix);
    softmax::each_row(x.q.cview(), heed::shared_prefix(first, cache), how, row);
  };
  std::visit(visit, x.cache());
  return all;
}

template decode_expected<float> expected_of<float>(const decode_case<float>&, const heed::softmax::options<float>&,
                                                   const decode_gates<float>*, const any_cache<float>*);
template decode_expected<double> expected_of<double>(const decode_case<double>&, const heed::softmax::options<double>&,
                                                     const decode_gates<double>*, const any_cache<double>*);

}  // namespace heed_test
