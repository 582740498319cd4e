// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "heed/core/call.hpp"
#include "heed/distributed/softmax_ring.hpp"
#include "heed/softmax/backward.hpp"

namespace heed::distributed {
namespace detail {

// Which gradients of keys and values travel
struct wanted_blocks {
  bool dk = false, dv = false;
};

inline namespace HEED_ISA {

// Gradients of a block of keys and values, one behind the other: (B, Hk, M, D) and (B, Hk, M, E), what is wanted.
template <class T> struct gradient_block {
  tensor_view<T, 4> dk, dv;
  T* data;
  index_t size = 0;

  gradient_block(T* memory, const ring_shape& s, const wanted_blocks& wanted, index_t keys) : data(memory) {
    if (wanted.dk) dk = bhsd(memory, s.batch, s.kv_heads, keys, s.d), size += size_of(dk);
    if (wanted.dv)
      dv = bhsd(memory == nullptr ? memory : memory + size, s.batch, s.kv_heads, keys, s.e), size += size_of(dv);
  }
  static index_t size_for(const ring_shape& s, const wanted_blocks& wanted, index_t keys) {
    return s.batch * s.kv_heads * keys * ((wanted.dk ? s.d : 0) + (wanted.dv ? s.e : 0));
  }
  std::span<std::byte> bytes() const {
    return std::as_writable_bytes(std::span<T>(data, static_cast<std::size_t>(size)));
  }
};

// The gradients of the blocks of keys, which follow their block round the ring and gain what each rank adds. Behind
// the last rank that sees a block they go straight to its owner.
template <class T, network N> class gradient_ring {
 public:
  gradient_ring(const session<N>& s, const schedule& plan, const ring_shape& shape, const wanted_blocks& wanted,
                heed::detail::arena& memory, call_scratch& scratch)
      : session_(s),
        plan_(plan),
        shape_(shape),
        wanted_(wanted),
        sends_{{{s, scratch}, {s, scratch}}},
        receive_(s, scratch),
        come_home_(s, scratch) {
    const index_t most = gradient_block<T>::size_for(shape, wanted, plan.most_keys());
    for (T*& each : blocks_) each = memory.take<T>(most);
    mine_ = memory.take<T>(most);
    home_ = memory.take<T>(gradient_block<T>::size_for(shape, wanted, plan.key_count(s.rank())));
    const index_t reach = plan.reach(s.rank());
    if (reach > 0) come_home_.receive(s.after(reach), home_channel, own(home_).bytes());
  }

  static void measure(const schedule& plan, const ring_shape& shape, const wanted_blocks& wanted, index_t rank,
                      heed::detail::arena& memory) {
    for (int i = 0; i < 3; ++i) memory.take<T>(gradient_block<T>::size_for(shape, wanted, plan.most_keys()));
    memory.take<T>(gradient_block<T>::size_for(shape, wanted, plan.key_count(rank)));
  }

  // Where this rank adds up its part for the block of an owner: zeros.
  gradient_block<T> begin(index_t owner) const {
    const gradient_block<T> block(mine_, shape_, wanted_, plan_.key_count(owner));
    std::fill(block.data, block.data + block.size, T(0));
    return block;
  }
  void poll() {
    receive_.poll(), come_home_.poll();
    for (auto& each : sends_) each.poll();
  }
  // Ends a step: adds this rank's part to what has come with the block, sends it on, and waits for the next.
  void end(index_t step, index_t owner) {
    const index_t reach = plan_.reach(owner), next = session_.before(step + 1);
    if (step <= reach) {
      const gradient_block<T> mine(mine_, shape_, wanted_, plan_.key_count(owner));
      T* const sum = block(step);
      receive_.wait();
      if (step == 0)
        std::copy(mine.data, mine.data + mine.size, sum);
      else
        for (index_t i = 0; i < mine.size; ++i) sum[i] += mine.data[i];
      const gradient_block<T> out(sum, shape_, wanted_, plan_.key_count(owner));
      if (step < reach)
        send(step).send(session_.after(1), gradients_channel, out.bytes());
      else if (step > 0)
        send(step).send(owner, home_channel, out.bytes());
      else
        std::copy(sum, sum + mine.size, home_);
    }
    if (step + 1 < plan_.ranks() && step + 1 <= plan_.reach(next)) {
      send(step + 1).wait();  // of the step before this one, from the same memory
      receive_.receive(session_.before(1), gradients_channel,
                       gradient_block<T>(block(step + 1), shape_, wanted_, plan_.key_count(next)).bytes());
    }
  }
  // The gradients of this rank's own keys, when the last step has ended.
  gradient_block<T> finish() {
    for (auto& each : sends_) each.wait();
    come_home_.wait();
    return own(home_);
  }

 private:
  gradient_block<T> own(T* memory) const { return {memory, shape_, wanted_, plan_.key_count(session_.rank())}; }
  T* block(index_t step) const { return blocks_[static_cast<std::size_t>(step % 2)]; }
  transfer<N>& send(index_t step) { return sends_[static_cast<std::size_t>(step % 2)]; }

  const session<N>& session_;
  const schedule& plan_;
  ring_shape shape_;
  wanted_blocks wanted_;
  std::array<T*, 2> blocks_{};
  T *mine_ = nullptr, *home_ = nullptr;
  std::array<transfer<N>, 2> sends_;
  transfer<N> receive_, come_home_;
};

// softmax::backward over ranks. QT, KT, OT, DT: element types; T: of sums and gradients.
template <class QT, class KT, class OT, class DT, network N> class ring_backward {
  using T = heed::detail::acc_t<QT>;
  using options_of_kernel = heed::softmax::options<T>;

 public:
  ring_backward(N& net, const tensor_view<const QT, 4>& q, const tensor_view<const KT, 4>& k,
                const tensor_view<const KT, 4>& v, const tensor_view<const OT, 4>& o,
                const tensor_view<const DT, 4>& dout, const heed::softmax::gradients<T>& out,
                const options_of_kernel& opt, const options& how, const context& given)
      : session_(net, how.timeout),
        q_(q),
        k_(k),
        v_(v),
        o_(o),
        dout_(dout),
        out_(out),
        opt_(opt),
        how_(how),
        context_(given),
        shape_(shape_of(q, k, v, o)),
        wanted_{out.dk.data() != nullptr, out.dv.data() != nullptr} {
    // a rank without tokens has no memory for them, but its gradients pass through as those of the others
    if (k.empty()) wanted_.dk = wanted_.dk || is_asked(out.dk);
    if (v.empty()) wanted_.dv = wanted_.dv || is_asked(out.dv);
  }

  plan agree(bool plan_only) {
    const open_messages<N> open(session_.net());
    plan out{};
    heed::detail::checker check(out.problem);
    check_ring_options(check, opt_, shape_, how_);
    check.require(
        out_.dbias.data() == nullptr && out_.dsink_logits.data() == nullptr && out_.dalibi_slopes.data() == nullptr,
        "dbias, dsink_logits and dalibi_slopes are not computed over ranks");
    check.require(opt_.lse.data() != nullptr || shape_.queries == 0,
                  "lse is not given: over ranks backward reads what forward wrote");
    if (check.ok())
      out = heed::softmax::plan_backward(q_, k_, v_, o_, dout_, out_, opt_, {.executor = context_.executor});
    out.workspace_bytes = 0;
    const std::int64_t flags = (wanted_.dk ? 1 : 0) + (wanted_.dv ? 2 : 0);
    schedule_ = agree_on_ring<QT, KT>(session_, {2, plan_only}, shape_, opt_, how_, flags, out.problem);
    if (!schedule_) return out;
    places_.resize(static_cast<std::size_t>(shape_.batch));
    heed::detail::arena counted;
    key_ring<KT, N>::measure(*schedule_, shape_, counted);
    gradient_ring<T, N>::measure(*schedule_, shape_, wanted_, session_.rank(), counted);
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
      gradient_ring<T, N> gradients(session_, *schedule_, shape_, wanted_, pieces, scratch);
      take(pieces);
      inner_ = {.executor = context_.executor,
                .workspace = {pieces.take<std::byte>(static_cast<index_t>(inner_bytes_)), inner_bytes_}};
      if (out_.dq.data() != nullptr) each_pair(out_.dq, out_.dq, [](T& x, T&) { x = T(0); });
      ring.run(k_, v_, [&](index_t step, index_t owner, bool here, const key_block<KT>& block, const auto& poll) {
        if (here) {
          const gradient_block<T> mine = gradients.begin(owner);
          schedule_->each_piece(session_.rank(), owner, [&](const chunk& queries, const chunk& keys) {
            work.attempt([&] { add_piece(queries, keys, block, mine); });
            poll(), gradients.poll();
          });
        }
        gradients.end(step, owner);
      });
      const gradient_block<T> own = gradients.finish();
      if (wanted_.dk) copy(out_.dk, own.dk);
      if (wanted_.dv) copy(out_.dv, own.dv);
    }
    work.finish(session_);
  }

 private:
  static bool is_asked(const tensor_view<T, 4>& x) { return x.extent(3) > 0; }

  index_t longest(const schedule::two& chunks) const { return std::max(chunks[0].count, chunks[1].count); }
  index_t longest_keys() const {
    index_t most = 0;
    for (index_t r = 0; r < schedule_->ranks(); ++r) most = std::max(most, longest(schedule_->keys_of(r)));
    return most;
  }
  // Takes the gradients of a piece; null while counting.
  void take(heed::detail::arena& memory) {
    const index_t rows = out_.dq.data() == nullptr ? 0 : longest(schedule_->queries_of(session_.rank()));
    dq_ = memory.take<T>(shape_.batch * shape_.heads * rows * shape_.d);
    piece_ = memory.take<T>(gradient_block<T>::size_for(shape_, wanted_, longest_keys()));
  }
  tensor_view<T, 4> part_dq(T* memory, index_t count) const {
    return bhsd(memory, shape_.batch, shape_.heads, count, shape_.d);
  }
  // The gradients of a piece: dq in dq, dk and dv in block.
  heed::softmax::gradients<T> gradients_of(const chunk& queries, T* dq, const gradient_block<T>& block) const {
    heed::softmax::gradients<T> g{.dk = block.dk, .dv = block.dv};
    if (out_.dq.data() != nullptr) g.dq = part_dq(dq, queries.count);
    if (out_.dlse.data() != nullptr) g.dlse = slice_axis(out_.dlse, 2, queries.row, queries.count);
    return g;
  }
  options_of_kernel options_of(const chunk& queries, index_t key_place) {
    set_places(places_, queries.place - key_place);
    return piece_options(opt_, places_, false, slice_axis(opt_.lse, 2, queries.row, queries.count));
  }

  std::size_t measure_pieces() {
    inner_bytes_ = 0;
    for (index_t owner = 0; owner < session_.size(); ++owner)
      schedule_->each_piece(session_.rank(), owner, [&](const chunk& queries, const chunk& keys) {
        const key_block<KT> block(planned<KT>(0), shape_, schedule_->key_count(owner));
        gradient_block<T> part(planned<T>(1), shape_, wanted_, keys.count);
        if (wanted_.dv) part.dv = {planned<T>(2), part.dv.extents(), part.dv.strides()};
        const plan p = heed::softmax::plan_backward(
            slice(q_, 2, queries.row, queries.count), slice(block.k, 2, keys.row, keys.count),
            slice(block.v, 2, keys.row, keys.count), slice(o_, 2, queries.row, queries.count),
            slice(dout_, 2, queries.row, queries.count), gradients_of(queries, planned<T>(3), part),
            options_of(queries, keys.place), {.executor = context_.executor});
        inner_bytes_ = std::max(inner_bytes_, p.workspace_bytes);
      });
    return inner_bytes_;
  }

  void add_piece(const chunk& queries, const chunk& keys, const key_block<KT>& block, const gradient_block<T>& mine) {
    const gradient_block<T> part(piece_, shape_, wanted_, keys.count);
    const tensor_view<const KT, 4> k = slice(block.k, 2, keys.row, keys.count);
    const tensor_view<const KT, 4> v = slice(block.v, 2, keys.row, keys.count);
    const auto g = gradients_of(queries, dq_, part);
    heed::softmax::backward(slice(q_, 2, queries.row, queries.count), k, v, slice(o_, 2, queries.row, queries.count),
                            slice(dout_, 2, queries.row, queries.count), g, options_of(queries, keys.place), inner_);
    if (g.dq.data() != nullptr) add(slice(out_.dq, 2, queries.row, queries.count), g.dq);
    if (wanted_.dk) add(slice(mine.dk, 2, keys.row, keys.count), part.dk);
    if (wanted_.dv) add(slice(mine.dv, 2, keys.row, keys.count), part.dv);
  }

  session<N> session_;
  tensor_view<const QT, 4> q_;
  tensor_view<const KT, 4> k_, v_;
  tensor_view<const OT, 4> o_;
  tensor_view<const DT, 4> dout_;
  const heed::softmax::gradients<T>& out_;
  const options_of_kernel& opt_;
  options how_;
  context context_, inner_ = {};
  ring_shape shape_;
  wanted_blocks wanted_;
  std::optional<schedule> schedule_;
  std::vector<std::int32_t> places_;  // one for each batch entry
  std::size_t inner_bytes_ = 0;
  T *dq_ = nullptr, *piece_ = nullptr;
};

template <class Q, class K, class V, class O, class D, network N>
auto ring_backward_of(N& net, const Q& q, const K& k, const V& v, const O& o, const D& dout,
                      const heed::softmax::gradients<acc_of<Q>>& out, const heed::softmax::options<acc_of<Q>>& opt,
                      const options& how, const context& given) {
  using heed::detail::value_t;
  return ring_backward<value_t<Q>, value_t<K>, value_t<O>, value_t<D>, N>(
      net, tensor_view<const value_t<Q>, 4>(q), tensor_view<const value_t<K>, 4>(k),
      tensor_view<const value_t<V>, 4>(v), tensor_view<const value_t<O>, 4>(o), tensor_view<const value_t<D>, 4>(dout),
      out, opt, how, given);
}

}  // namespace HEED_ISA
}  // namespace detail

namespace softmax {
inline namespace HEED_ISA {

// Says what backward would do on this rank with the same arguments, or why it would throw. All ranks call it together.
// workspace_bytes is of this rank. Throws heed::error where the network fails.
template <network N, viewable Q, viewable K, viewable V, viewable O, viewable D>
plan plan_backward(N& net, const Q& q, const K& k, const V& v, const O& o, const D& dout,
                   const heed::softmax::gradients<acc_of<Q>>& out, const heed::softmax::options<acc_of<Q>>& opt = {},
                   const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  return detail::ring_backward_of(net, q, k, v, o, dout, out, opt, how, context).make_plan();
}

// Computes the gradients of forward over ranks, as softmax::backward would over the whole sequence: those of this
// rank's q, k and v, from its rows of dout (B, max(H, Hk), N_r, E) and of dlse, if given. o and opt.lse are what
// forward wrote. Keys and values go round once more, with the gradients dk and dv, which come home when the last rank
// that sees the keys has added its part. dq, dk and dv are overwritten; all ranks ask for dk, or none does, and so for
// dv (a rank without keys asks by a view with a head dim, whose pointer may be null). dbias, dsink_logits and
// dalibi_slopes are errors. Errors, types and bits are those of forward.
template <network N, viewable Q, viewable K, viewable V, viewable O, viewable D>
void backward(N& net, const Q& q, const K& k, const V& v, const O& o, const D& dout,
              const heed::softmax::gradients<acc_of<Q>>& out, const heed::softmax::options<acc_of<Q>>& opt = {},
              const options& how = {}, const context& context = {}) {
  static_assert(heed::detail::input_tensors<Q, K, V, O, D>());
  detail::ring_backward_of(net, q, k, v, o, dout, out, opt, how, context).run();
}

}  // namespace HEED_ISA
}  // namespace softmax
}  // namespace heed::distributed
