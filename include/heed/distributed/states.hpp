// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// States of linear and lightning attention over ranks: what the ranks before a rank have written into the state, and in
// backward the gradient that those behind it send back.

#include <algorithm>
#include <array>
#include <cstdint>

#include "heed/core/check.hpp"
#include "heed/core/plan.hpp"
#include "heed/core/state.hpp"
#include "heed/distributed/pack.hpp"
#include "heed/distributed/session.hpp"

namespace heed::distributed::detail {

// Of the states of a call. with_z: there is a normaliser; decays: a state is multiplied on its way through a rank.
struct state_shape {
  index_t batch = 0, heads = 0, features = 0, e = 0;
  bool with_z = false, decays = false;
};

inline namespace HEED_ISA {

// What the tokens of some ranks in a row do to a state X: X becomes a X + (s, z), with a factor a for each head.
template <class T> struct state_change {
  state_shape shape;
  T* data = nullptr;

  static index_t size(const state_shape& x) {
    return x.batch * x.heads * ((x.decays ? 1 : 0) + x.features * (x.e + (x.with_z ? 1 : 0)));
  }
  index_t size() const { return size(shape); }
  T* factors() const { return data + shape.batch * shape.heads * shape.features * (shape.e + (shape.with_z ? 1 : 0)); }
  state_view<T> view() const {
    const index_t n = shape.batch * shape.heads * shape.features;
    state_view<T> x{contiguous(data, {shape.batch, shape.heads, shape.features, shape.e})};
    if (shape.with_z) x.z = contiguous(data + n * shape.e, {shape.batch, shape.heads, shape.features});
    return x;
  }
  void clear() const {
    std::fill(data, data + size(), T(0));
    if (shape.decays) std::fill(factors(), factors() + shape.batch * shape.heads, T(1));
  }
  std::span<std::byte> bytes() const {
    return std::as_writable_bytes(std::span<T>(data, static_cast<std::size_t>(size())));
  }
  // Puts what comes earlier in front of this. A factor of 0 cuts: what was before it has no effect, NaN neither.
  void follow(const state_change& earlier) const {
    const index_t states = shape.batch * shape.heads, s_size = shape.features * shape.e;
    for (index_t i = 0; i < states; ++i) {
      const T a = shape.decays ? factors()[i] : T(1);
      if (heed::detail::equals(a, T(0))) continue;
      for (index_t x = i * s_size; x < (i + 1) * s_size; ++x) data[x] += a * earlier.data[x];
      T* const z = data + states * s_size;
      const T* const from = earlier.data + states * s_size;
      for (index_t x = i * shape.features; shape.with_z && x < (i + 1) * shape.features; ++x) z[x] += a * from[x];
      if (shape.decays) factors()[i] = a * earlier.factors()[i];
    }
  }
};

// Adds or copies states, each with its z or without.
template <class T> void add(const state_view<T>& to, const state_view<const T>& from) {
  add(to.s, from.s);
  if (to.z.data() != nullptr && from.z.data() != nullptr) add(to.z, from.z);
}

// Brings every rank the states of those before it, or behind it.
template <class T, network N> class state_exchange {
 public:
  state_exchange(const session<N>& s, const state_shape& shape, state_pass how, heed::detail::arena& memory,
                 call_scratch& scratch)
      : session_(s),
        how_(how),
        local{shape, take(shape, memory)},
        result{shape, take(shape, memory)},
        own_{shape, take(shape, memory)},
        incoming_{shape, take(shape, memory)},
        send_(s, scratch),
        receive_(s, scratch) {}

  static void measure(const state_shape& shape, heed::detail::arena& memory) {
    for (int i = 0; i < 4; ++i) take(shape, memory);
  }

  // result = what the ranks before this one do to a state of zeros (reverse: those behind, the last one first), of
  // what each does in its local. both: of all other ranks.
  void run(bool reverse, bool both) {
    before(reverse, result);
    if (!both) return;
    before(!reverse, incoming_);  // incoming_ is free between two exchanges, and after the last
    for (index_t i = 0; i < result.size(); ++i) result.data[i] += incoming_.data[i];
  }

 private:
  static T* take(const state_shape& shape, heed::detail::arena& memory) {
    return memory.take<T>(state_change<T>::size(shape));
  }
  void before(bool reverse, const state_change<T>& into) {
    const index_t ranks = session_.size(), own = reverse ? ranks - 1 - session_.rank() : session_.rank();
    const auto rank_at = [&](index_t place) { return reverse ? ranks - 1 - place : place; };
    std::copy(local.data, local.data + local.size(), own_.data);
    if (how_ == state_pass::scan) {
      for (index_t distance = 1; distance < ranks; distance *= 2) {  // own_: of the last 2 distance ranks, or all
        const bool has_earlier = own >= distance;
        if (has_earlier) receive_.receive(rank_at(own - distance), states_channel, incoming_.bytes());
        if (own + distance < ranks) send_.send(rank_at(own + distance), states_channel, own_.bytes());
        receive_.wait(), send_.wait();
        if (has_earlier) own_.follow(incoming_);
      }
      if (own > 0) receive_.receive(rank_at(own - 1), states_channel, into.bytes());
      if (own + 1 < ranks) send_.send(rank_at(own + 1), states_channel, own_.bytes());
      receive_.wait(), send_.wait();
    } else {
      if (own > 0) receive_.receive(rank_at(own - 1), states_channel, into.bytes());
      receive_.wait();
      if (own > 0) own_.follow(into);
      if (own + 1 < ranks) send_.send(rank_at(own + 1), states_channel, own_.bytes());
      send_.wait();
    }
    if (own == 0) into.clear();
  }

  const session<N>& session_;
  state_pass how_;

 public:
  state_change<T> local, result;  // local: to be set before run

 private:
  state_change<T> own_, incoming_;
  transfer<N> send_, receive_;
};

// Runs a call of a kernel with states over ranks. A Kernel has
//   plan plan_local(executor) const         the call on this rank, as if it were alone
//   void check(checker&) const              what cannot be done over ranks
//   void describe(agreement&) const         what all ranks must have alike
//   state_shape shape() const; bool dense() const    dense: every query reads the keys of all ranks
//   bool has_initial() const, has_final_gradient() const, has_initial_gradient() const
//   size_t measure(executor)                the largest scratch of the calls below, in states at planned()
//   void take(arena&)                       memory of its own
//   void local_state(state_change, context)                   from the caller's initial state, or zeros
//   void add_initial(state_view)                               adds the caller's initial state
//   void local_gradient(state_view before, state_change, context), add_final_gradient(state_view)     backward only
//   void run(state_view before, state_view behind, context)    null: none
//   void run_alone(context)                 the call as it is, of the only rank
//   void combine(session)                   sums over ranks, behind everything else
template <class T, class Kernel, network N> class state_call {
 public:
  state_call(N& net, Kernel& kernel, const options& how, const context& given)
      : session_(net, how.timeout), kernel_(kernel), how_(how), context_(given) {}

  plan agree(bool plan_only) {
    const open_messages<N> open(session_.net());
    plan out{};
    heed::detail::checker check(out.problem);
    check.require(how_.cut == cut::contiguous, "linear and lightning attention take the cut contiguous alone");
    check.require(how_.timeout.count() > 0, "timeout is % ms, must be more than 0", how_.timeout.count());
    check.require(!kernel_.has_initial() || session_.rank() == 0,
                  "initial_state is given, but only rank 0 starts the sequence");
    check.require(!kernel_.has_initial_gradient() || session_.rank() == 0,
                  "dinitial_state is given, but only rank 0 starts the sequence");
    check.require(!kernel_.has_final_gradient() || session_.rank() == session_.size() - 1,
                  "dfinal_state is given, but only the last rank ends the sequence");
    kernel_.check(check);
    if (check.ok()) out = kernel_.plan_local(context_.executor);
    out.workspace_bytes = 0;
    agreement a(Kernel::verb, plan_only);
    a.problem() = out.problem;
    a.same("heed version", HEED_VERSION_MAJOR * 1000 + HEED_VERSION_MINOR);
    a.same("states passed by", static_cast<std::int64_t>(how_.states));
    kernel_.describe(a);
    static_cast<void>(a.gather(session_, out.problem));
    if (!out.ok()) return out;
    heed::detail::arena counted;
    state_exchange<T, N>::measure(kernel_.shape(), counted);
    counted.take<T>(state_change<T>::size(kernel_.shape()));
    kernel_.take(counted);
    inner_bytes_ = kernel_.measure(context_.executor);
    counted.take<std::byte>(static_cast<index_t>(inner_bytes_));
    out.workspace_bytes = counted.needed();
    out.splits = session_.size();
    return out;
  }

  plan make_plan() {
    plan out = agree(true);
    if (out.ok()) heed::detail::check_workspace(out.problem, context_.workspace, out.workspace_bytes);
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
      state_exchange<T, N> states(session_, kernel_.shape(), how_.states, pieces, scratch);
      const state_change<T> before{kernel_.shape(), pieces.take<T>(states.local.size())};
      kernel_.take(pieces);
      const context inner{.executor = context_.executor,
                          .workspace = {pieces.take<std::byte>(static_cast<index_t>(inner_bytes_)), inner_bytes_}};
      if (session_.size() == 1)
        work.attempt([&] { kernel_.run_alone(inner); });
      else
        run_between(states, before, inner, work);
      if constexpr (requires { kernel_.combine(session_); }) kernel_.combine(session_);
    }
    work.finish(session_);
  }

 private:
  void run_between(state_exchange<T, N>& states, const state_change<T>& before, const context& inner, outcome& work) {
    const bool dense = kernel_.dense(), first = session_.rank() == 0, last = session_.rank() + 1 == session_.size();
    states.local.clear();
    work.attempt([&] { kernel_.local_state(states.local, inner); });
    states.run(false, dense);
    state_view<T> from{}, behind{};
    if (!first || dense || kernel_.has_initial()) {
      std::copy(states.result.data, states.result.data + states.result.size(), before.data);
      from = before.view();
      kernel_.add_initial(from);
    }
    if constexpr (Kernel::is_backward) {
      // local keeps its factors, through which the gradient goes back
      work.attempt([&] { kernel_.local_gradient(from, states.local, inner); });
      states.run(true, dense);
      if (!last || dense || kernel_.has_final_gradient()) {
        behind = states.result.view();
        kernel_.add_final_gradient(behind);
      }
    }
    work.attempt([&] { kernel_.run(from, behind, inner); });
  }

  session<N> session_;
  Kernel& kernel_;
  options how_;
  context context_;
  std::size_t inner_bytes_ = 0;
};

template <class T, class Kernel, network N>
state_call<T, Kernel, N> state_call_of(N& net, Kernel& kernel, const options& how, const context& given) {
  return {net, kernel, how, given};
}

}  // namespace HEED_ISA
}  // namespace heed::distributed::detail
