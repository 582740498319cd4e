// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What forward and backward of softmax attention over ranks share: the agreement, the blocks of keys that travel.

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "heed/core/check.hpp"
#include "heed/core/plan.hpp"
#include "heed/distributed/pack.hpp"
#include "heed/distributed/schedule.hpp"
#include "heed/distributed/session.hpp"
#include "heed/softmax/options.hpp"

namespace heed::distributed::detail {

// Extents of the tensors of this rank: batch, heads of q, of k and v, and of o, head dims
struct ring_shape {
  index_t batch = 0, heads = 0, kv_heads = 0, out_heads = 0, d = 0, e = 0, queries = 0, keys = 0;
};

inline namespace HEED_ISA {

// Bytes of an element, and 1 more for f16, which has as many as bf16
template <class T> inline constexpr std::int64_t type_code = sizeof(T) + (std::is_same_v<T, f16_t> ? 1 : 0);

// Memory that stands for tensors that are only planned: a plan reads no data.
alignas(64) inline std::byte planned_memory[16 * 64] = {};
template <class T> T* planned(int which) { return reinterpret_cast<T*>(planned_memory + 64 * which); }

template <class Q, class K, class V, class O> ring_shape shape_of(const Q& q, const K& k, const V& v, const O& o) {
  return {q.extent(0), q.extent(1), k.extent(1), o.extent(1), q.extent(3), v.extent(3), q.extent(2), k.extent(2)};
}

// Refuses what cannot be cut among ranks. Everything else is for the plan of the kernel to say.
template <class T>
void check_ring_options(heed::detail::checker& check, const heed::softmax::options<T>& opt, const ring_shape& shape,
                        const options& how) {
  const heed::detail::mask_parts& m = heed::detail::parts(opt.mask);
  check.require((m.present & ~(m.causal | m.window)) == 0,
                "the mask over ranks is none, causal or window; packed, lengths, segments and others are not taken");
  check.require(!m.has(m.window) || m.left == -1 || m.keep_first == 0, "window: keep_first is %, must be 0 over ranks",
                m.keep_first);
  check.require(opt.bias.data() == nullptr, "bias is not taken over ranks");
  check.require(heed::detail::parts(opt.score).map_value == nullptr, "score is not taken over ranks");
  const heed::detail::alignment_parts& align = heed::detail::parts(opt.align);
  check.require(!align.has_first && !align.end_of_lengths, "align is bottom_right or top_left over ranks");
  if (how.cut == cut::zigzag) {
    check.require(shape.queries == shape.keys, "zigzag: q has % tokens, k has %, must be as many", shape.queries,
                  shape.keys);
    check.require(how.first_chunk >= -1 && how.first_chunk <= shape.keys, "first_chunk is %, must be -1 to %",
                  how.first_chunk, shape.keys);
  }
  check.require(how.timeout.count() > 0, "timeout is % ms, must be more than 0", how.timeout.count());
}

template <class T> std::uint64_t hash_of(const per_head& numbers, index_t heads) {
  if (!numbers.set()) return 0;
  std::uint64_t hash = empty_hash;
  for (index_t h = 0; h < (numbers.one_each() ? numbers.size() : heads); ++h)
    add_to_hash(hash, numbers.at(numbers.one_each() ? h : 0));
  return hash;
}

// Agrees with all ranks on a call, and derives the schedule. problem: the same text on every rank.
template <class QT, class KT, class T, network N>
std::optional<schedule> agree_on_ring(const session<N>& s, const agreement& call, const ring_shape& shape,
                                      const heed::softmax::options<T>& opt, const options& how, std::int64_t flags,
                                      heed::detail::problem_text& problem) {
  agreement a = call;
  a.problem() = problem;
  a.same("heed version", HEED_VERSION_MAJOR * 1000 + HEED_VERSION_MINOR);
  a.same("a q of type", type_code<QT>), a.same("a k of type", type_code<KT>);
  a.same("batch", shape.batch), a.same("query heads", shape.heads), a.same("key/value heads", shape.kv_heads);
  a.same("head dim", shape.d), a.same("value dim", shape.e), a.same("gradients", flags);
  a.same("cut", static_cast<std::int64_t>(how.cut));
  const heed::detail::mask_parts& m = heed::detail::parts(opt.mask);
  const sight visible = sight_of(m);
  a.same("mask", static_cast<std::int64_t>(m.present)), a.same("window to the left", visible.left);
  a.same("window to the right", visible.right), a.same("align", heed::detail::parts(opt.align).top_left);
  a.same_real("scale", opt.scale.value_or(1 / std::sqrt(static_cast<double>(shape.d))));
  a.same_real("softcap", opt.softcap);
  a.same_hash("alibi_slopes", hash_of<T>(opt.alibi_slopes, shape.out_heads));
  a.same_hash("sink_logits", hash_of<T>(opt.sink_logits, shape.out_heads));
  const bool halves = how.cut == cut::zigzag && how.first_chunk < 0;
  const std::size_t queries = a.own(shape.queries), keys = a.own(shape.keys);
  const std::size_t first = a.own(halves ? (shape.keys + 1) / 2 : how.first_chunk);
  const std::vector<call_header> all = a.gather(s, problem);
  if (problem[0] != 0) return std::nullopt;
  std::vector<schedule::tokens> ranks;
  for (const call_header& each : all) {
    const auto number = [&](std::size_t i) { return static_cast<index_t>(each.numbers[i]); };
    ranks.push_back({number(queries), number(keys), number(first), number(first)});
  }
  schedule plan(how.cut, heed::detail::parts(opt.align).top_left, visible, ranks);
  heed::detail::checker check(problem);
  constexpr index_t most = std::numeric_limits<std::int32_t>::max();  // places are such numbers
  check.require(plan.all_queries() <= most && plan.all_keys() <= most,
                "all ranks have % queries and % keys, must be at most %", plan.all_queries(), plan.all_keys(), most);
  if (!check.ok()) return std::nullopt;
  return plan;
}

// Keys and values of a rank, one behind the other, as a message carries them: (B, Hk, M, D) and (B, Hk, M, E).
template <class T> struct key_block {
  tensor_view<T, 4> k, v;

  key_block(T* memory, const ring_shape& s, index_t keys)
      : k(bhsd(memory, s.batch, s.kv_heads, keys, s.d)),
        v(bhsd(memory == nullptr ? memory : memory + size_of(k), s.batch, s.kv_heads, keys, s.e)) {}

  static index_t size(const ring_shape& s, index_t keys) { return s.batch * s.kv_heads * keys * (s.d + s.e); }
  std::span<T> all() const { return {k.data(), static_cast<std::size_t>(size_of(k) + size_of(v))}; }
};

// The options of one call on a piece: the places of its queries against its keys, and its lse.
template <class T>
heed::softmax::options<T> piece_options(const heed::softmax::options<T>& opt, const std::vector<std::int32_t>& places,
                                        bool with_sink, const tensor_view<T, 3>& lse) {
  return {.mask = opt.mask,
          .align = first_place(places),
          .scale = opt.scale,
          .softcap = opt.softcap,
          .alibi_slopes = opt.alibi_slopes,
          .sink_logits = with_sink ? opt.sink_logits : per_head(),
          .lse = lse};
}
inline void set_places(std::vector<std::int32_t>& places, index_t place) {
  std::fill(places.begin(), places.end(), static_cast<std::int32_t>(place));
}

// Writes path, calls and messages of a rank into a plan.
template <class KT> void describe_ring(plan& out, const schedule& s, const ring_shape& shape, index_t rank) {
  const ring_counts counts = s.counts_of(rank);
  out.path = "ring", out.splits = s.ranks(), out.tasks = counts.calls;
  const index_t bytes = counts.keys_sent * key_block<KT>::size(shape, 1) * static_cast<index_t>(sizeof(KT));
  heed::detail::message(out.why) << "rank " << rank << " of " << s.ranks() << ", " << s.all_queries() << " queries on "
                                 << s.all_keys() << " keys in all: " << counts.calls << " calls of the kernel, sends "
                                 << bytes << " bytes in " << counts.messages << " messages";
}

// The blocks of keys of a ring: two, of which one is computed with while the next one comes and it goes itself.
template <class KT, network N> class key_ring {
 public:
  key_ring(const session<N>& s, const schedule& plan, const ring_shape& shape, heed::detail::arena& memory,
           call_scratch& scratch)
      : session_(s),
        plan_(plan),
        shape_(shape),
        blocks_{memory.take<KT>(key_block<KT>::size(shape, plan.most_keys())),
                memory.take<KT>(key_block<KT>::size(shape, plan.most_keys()))},
        send_(s, scratch),
        receive_(s, scratch) {}

  static void measure(const schedule& plan, const ring_shape& shape, heed::detail::arena& memory) {
    memory.take<KT>(key_block<KT>::size(shape, plan.most_keys()));
    memory.take<KT>(key_block<KT>::size(shape, plan.most_keys()));
  }

  // f(step, owner, here, block, poll) for every step of the ring: the owner of the block; whether the block has come,
  // which it does where it is of use here or further on; poll() lets messages go on.
  template <class K, class V, class F> void run(const K& k, const V& v, const F& f) {
    const index_t ranks = plan_.ranks();
    copy(block(0, session_.rank()).k, k), copy(block(0, session_.rank()).v, v);
    bool here = true;
    for (index_t step = 0; step < ranks; ++step) {
      const index_t owner = session_.before(step), next = session_.before(step + 1);
      const bool comes = step + 1 < ranks && step + 1 <= plan_.reach(next);
      if (comes) receive_.receive(session_.before(1), keys_channel, bytes(block(step + 1, next)));
      if (here && step < plan_.reach(owner)) send_.send(session_.after(1), keys_channel, bytes(block(step, owner)));
      f(step, owner, here, block(step, owner), [&] { receive_.poll(), send_.poll(); });
      receive_.wait(), send_.wait();
      here = comes;
    }
  }

 private:
  key_block<KT> block(index_t step, index_t owner) const {
    return {blocks_[static_cast<std::size_t>(step % 2)], shape_, plan_.key_count(owner)};
  }
  static std::span<std::byte> bytes(const key_block<KT>& b) { return std::as_writable_bytes(b.all()); }

  const session<N>& session_;
  const schedule& plan_;
  ring_shape shape_;
  std::array<KT*, 2> blocks_;
  transfer<N> send_, receive_;
};

}  // namespace HEED_ISA
}  // namespace heed::distributed::detail
