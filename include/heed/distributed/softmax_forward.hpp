// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/distributed/softmax_ring.hpp"
#include "heed/softmax/forward.hpp"
#include "heed/softmax/merge.hpp"

namespace heed::distributed {
namespace detail {
inline namespace HEED_ISA {

// softmax::forward over ranks. QT, KT, OT: element types; T: what sums are in.
template <class QT, class KT, class OT, network N> class ring_forward {
  using T = heed::detail::acc_t<QT>;
  static constexpr bool direct = std::is_same_v<OT, T>;  // o itself holds the sums

 public:
  ring_forward(N& net, const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
               const tensor_view<const KT, 4>& v, const tensor_view<OT, 4>& o, const heed::softmax::options<T>& opt,
               const options& how, const context& given)
      : session_(net, how.timeout),
        q_(q),
        k_(k),
        v_(v),
        o_(o),
        opt_(opt),
        how_(how),
        context_(given),
        shape_(shape_of(q, k, v, o)) {}

  // Says what is wrong, the same on all ranks, or what this rank does and the scratch that it needs. All ranks call it.
  plan agree(bool plan_only) {
    const open_messages<N> open(session_.net());
    plan out{};
    heed::detail::checker check(out.problem);
    check_ring_options(check, opt_, shape_, how_);
    if (check.ok()) out = heed::softmax::plan_forward(q_, k_, v_, o_, opt_, {.executor = context_.executor});
    out.workspace_bytes = 0;
    schedule_ = agree_on_ring<QT, KT>(session_, {1, plan_only}, shape_, opt_, how_, 0, out.problem);
    if (!schedule_) return out;
    places_.resize(static_cast<std::size_t>(shape_.batch));
    heed::detail::arena counted;
    key_ring<KT, N>::measure(*schedule_, shape_, counted);
    take(counted);
    counted.take<std::byte>(static_cast<index_t>(measure_pieces()));
    out.workspace_bytes = counted.needed();
    return out;
  }

  plan make_plan() {
    plan out = agree(true);
    if (!out.ok()) return out;
    describe_ring<KT>(out, *schedule_, shape_, session_.rank());
    heed::detail::check_workspace(out.problem, context_.workspace, out.workspace_bytes);
    return out;
  }

  void run() {
    const plan found = agree(false);
    if (!found.ok()) heed::detail::fail(found.problem.data());
    call_scratch scratch;
    outcome memory, work;
    memory.attempt([&] { scratch.open(context_.workspace, found.workspace_bytes); });
    memory.finish(session_);  // nothing is written before all ranks have their memory
    heed::detail::arena pieces(scratch.memory(), found.workspace_bytes);
    {
      const open_messages<N> open(session_.net());
      key_ring<KT, N> ring(session_, *schedule_, shape_, pieces, scratch);
      take(pieces);
      inner_ = {.executor = context_.executor,
                .workspace = {pieces.take<std::byte>(static_cast<index_t>(inner_bytes_)), inner_bytes_}};
      ring.run(k_, v_, [&](index_t, index_t owner, bool here, const key_block<KT>& block, const auto& poll) {
        if (!here) return;
        schedule_->each_piece(session_.rank(), owner, [&](const chunk& queries, const chunk& keys) {
          work.attempt([&] { add_piece(queries, keys, block); });
          poll();
        });
      });
    }
    work.attempt([&] { finish_rows(); });
    work.finish(session_);
  }

 private:
  using rows = tensor_view<T, 4>;

  index_t longest() const {
    const auto& own = schedule_->queries_of(session_.rank());
    return std::max(own[0].count, own[1].count);
  }
  // Takes the sums, where o and lse cannot hold them, and the result of a piece; null while counting.
  void take(heed::detail::arena& memory) {
    const index_t row_count = shape_.batch * shape_.out_heads, n = shape_.queries, most = longest();
    if constexpr (direct)
      sum_ = o_;
    else
      sum_ = bhsd(memory.take<T>(row_count * n * shape_.e), shape_.batch, shape_.out_heads, n, shape_.e);
    sum_lse_ = opt_.lse;
    if (opt_.lse.data() == nullptr)
      sum_lse_ = contiguous(memory.take<T>(row_count * n), {shape_.batch, shape_.out_heads, n});
    part_ = memory.take<T>(row_count * most * shape_.e), part_lse_ = memory.take<T>(row_count * most);
  }
  rows part_rows(T* memory, index_t count) const {
    return bhsd(memory, shape_.batch, shape_.out_heads, count, shape_.e);
  }
  tensor_view<T, 3> lse_rows(T* memory, index_t count) const {
    return contiguous(memory, {shape_.batch, shape_.out_heads, count});
  }
  heed::softmax::options<T> options_of(const chunk& queries, index_t key_place, bool first,
                                       const tensor_view<T, 3>& lse) {
    set_places(places_, queries.place - key_place);
    return piece_options(opt_, places_, first, lse);  // the sink joins the first part of a row
  }

  // The largest scratch of a call of the kernel. No element is read or written.
  std::size_t measure_pieces() {
    inner_bytes_ = 0;
    const auto plan_piece = [&](const chunk& queries, const chunk& keys, index_t all_keys) {
      const key_block<KT> block(planned<KT>(0), shape_, all_keys);
      const auto opt = options_of(queries, keys.place, true, lse_rows(planned<T>(2), queries.count));
      const plan p =
          heed::softmax::plan_forward(slice(q_, 2, queries.row, queries.count), slice(block.k, 2, keys.row, keys.count),
                                      slice(block.v, 2, keys.row, keys.count), part_rows(planned<T>(1), queries.count),
                                      opt, {.executor = context_.executor});
      inner_bytes_ = std::max(inner_bytes_, p.workspace_bytes);
    };
    for (index_t owner = 0; owner < session_.size(); ++owner)
      schedule_->each_piece(session_.rank(), owner, [&](const chunk& queries, const chunk& keys) {
        plan_piece(queries, keys, schedule_->key_count(owner));
      });
    for (const chunk& queries : schedule_->queries_of(session_.rank())) plan_piece(queries, {}, 0);
    return inner_bytes_;
  }

  void add_piece(const chunk& queries, const chunk& keys, const key_block<KT>& block) {
    const auto q = slice(q_, 2, queries.row, queries.count);
    const tensor_view<const KT, 4> k = slice(block.k, 2, keys.row, keys.count);
    const tensor_view<const KT, 4> v = slice(block.v, 2, keys.row, keys.count);
    const rows sum = slice(sum_, 2, queries.row, queries.count);
    const auto lse = slice_axis(sum_lse_, 2, queries.row, queries.count);
    bool& begun = begun_[&queries == &schedule_->queries_of(session_.rank())[0] ? 0 : 1];
    if (!begun) {
      heed::softmax::forward(q, k, v, sum, options_of(queries, keys.place, true, lse), inner_);
      begun = true;
      return;
    }
    const auto part = part_rows(part_, queries.count);
    const auto of_part = lse_rows(part_lse_, queries.count);
    heed::softmax::forward(q, k, v, part, options_of(queries, keys.place, false, of_part), inner_);
    merge(sum, lse, part, of_part);
  }

  // softmax::merge, the heads cut among the workers of the executor
  void merge(const rows& sum, const tensor_view<T, 3>& lse, const rows& part, const tensor_view<T, 3>& part_lse) const {
    const index_t heads = shape_.out_heads, tasks = std::min(context_.executor.concurrency(), heads);
    auto merge_heads = [&](index_t task) noexcept {
      const index_t first = task * heads / tasks, count = (task + 1) * heads / tasks - first;
      heed::softmax::merge(slice(sum, 1, first, count), slice_axis(lse, 1, first, count), slice(part, 1, first, count),
                           slice_axis(part_lse, 1, first, count));
    };
    context_.executor.run(tasks, merge_heads);
  }

  // Writes rows that see nothing, and o from the sums.
  void finish_rows() {
    for (std::size_t i = 0; i < 2; ++i) {
      const chunk& queries = schedule_->queries_of(session_.rank())[i];
      if (!begun_[i] && queries.count > 0) add_piece(queries, {}, {planned<KT>(0), shape_, 0});
    }
    if constexpr (!direct) copy(o_, sum_);
  }

  session<N> session_;
  tensor_view<const QT, 4> q_;
  tensor_view<const KT, 4> k_, v_;
  tensor_view<OT, 4> o_;
  const heed::softmax::options<T>& opt_;
  options how_;
  context context_, inner_ = {};
  ring_shape shape_;
  std::optional<schedule> schedule_;
  std::vector<std::int32_t> places_;  // one for each batch entry
  std::size_t inner_bytes_ = 0;
  rows sum_;
  tensor_view<T, 3> sum_lse_;
  T *part_ = nullptr, *part_lse_ = nullptr;
  std::array<bool, 2> begun_{};  // whether a chunk of queries has a result
};

template <class Q, class K, class V, class O, network N>
auto ring_forward_of(N& net, const Q& q, const K& k, const V& v, O& o, const heed::softmax::options<acc_of<Q>>& opt,
                     const options& how, const context& given) {
  using QT = heed::detail::value_t<Q>;
  using KT = heed::detail::value_t<K>;
  using OT = std::remove_const_t<element_t<O>>;
  const tensor_view<element_t<O>, 4> out(o);
  return ring_forward<QT, KT, OT, N>(net, tensor_view<const QT, 4>(q), tensor_view<const KT, 4>(k),
                                     tensor_view<const KT, 4>(v),
                                     {const_cast<OT*>(out.data()), out.extents(), out.strides()}, opt, how, given);
}

}  // namespace HEED_ISA
}  // namespace detail

namespace softmax {
inline namespace HEED_ISA {

// Says what forward would do on this rank with the same arguments, or why it would throw. All ranks call it together:
// it exchanges their shapes. workspace_bytes is of this rank. Throws heed::error where the network fails.
template <network N, viewable Q, viewable K, viewable V, viewable O>
plan plan_forward(N& net, const Q& q, const K& k, const V& v, const O& o,
                  const heed::softmax::options<acc_of<Q>>& opt = {}, const options& how = {},
                  const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O>());
  return detail::ring_forward_of<Q, K, V, const O>(net, q, k, v, o, opt, how, context).make_plan();
}

// Computes softmax attention over a sequence that is cut among ranks, as softmax::forward would over all of it. Every
// rank calls it with its own tokens, q (B, H, N_r, D), k (B, Hk, M_r, D), v (B, Hk, M_r, E), and gets its own rows of
// o (B, max(H, Hk), N_r, E) and of opt.lse. Keys and values go round the ranks while they compute; the results of parts
// are merged. how.cut says which tokens a rank has; N_r and M_r may be 0 and differ among ranks, and M_r from N_r where
// the cut is contiguous. Mask: none, causal, window. Options: scale, softcap, alibi_slopes, sink_logits, lse, align
// bottom_right or top_left, all the same on every rank but lse. The same bits for every run and executor.
// Throws heed::error on every rank, before anything is written, where arguments do not fit on one of them or each
// other; heed::error on every rank that still runs, at most how.timeout after it began to wait, where another does not
// answer: o may then hold anything, and the network is of no more use.
// Liu et al., Ring Attention (arXiv 2310.01889); causal balance as in Brandon et al., Striped Attention (arXiv
// 2311.09431), by chunks from both ends.
template <network N, viewable Q, viewable K, viewable V, viewable O>
void forward(N& net, const Q& q, const K& k, const V& v, O&& o, const heed::softmax::options<acc_of<Q>>& opt = {},
             const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::call_tensors<O, Q, K, V>());
  detail::ring_forward_of<Q, K, V>(net, q, k, v, o, opt, how, context).run();
}

}  // namespace HEED_ISA
}  // namespace softmax
}  // namespace heed::distributed
