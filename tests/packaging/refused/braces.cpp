// SPDX-License-Identifier: BSD-3-Clause
// What is written between the braces of a call by mistake. `attend` has the parameters of a verb.
// flags: -O0
// says: a mask is what a call returns: heed::causal()
// says: a mask is what a call returns: heed::causal()
// says: a mask is what a call returns: heed::causal()
// says: align is bottom_right, top_left
// says: align is bottom_right, top_left
// says: align is bottom_right, top_left
// says: align is bottom_right, top_left
// says: a pointer has no shape: heed::bhsd(pointer
// says: a score function is called as f(score, const heed::position&)
// says: a score function captures at most 32 bytes
// says: a score function is copied byte by byte
// says: an executor is referred to, not copied: give it a name
// says: an executor has e.concurrency() and e.parallel_for(n, f)
// says: a tensor has at most 4 axes
// says: this temporary would be gone before the call: give it a name
// says: numbers per head are one number, or a range of float or double
// says: lengths, offsets and places are ranges of std::int32_t
// says: a const function of (const heed::position&), trivially copyable, at most 32 bytes
// says: the gates of a temporary would be gone before the call; give them a name
// says: the memory of a temporary state would be gone; give it a name
// says: the memory of a temporary state would be gone; give it a name
// says: numbers per head are one number, or a range of float or double
// says: an executor has e.concurrency() and e.parallel_for(n, f)
// says: an executor has e.concurrency() and e.parallel_for(n, f)
// says: an executor is referred to, not copied: give it a name
// says: a score function is called through const, which a mutable lambda does not allow
// says: a pointer has no shape: heed::contiguous(pointer

#include <array>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/decay.hpp"
#include "heed/core/state.hpp"
#include "heed/linear/options.hpp"
#include "heed/softmax/options.hpp"

template <heed::viewable Q>
void attend(const Q&, const heed::softmax::options<heed::acc_of<Q>>& = {}, const heed::context& = {}) {}
void decode(heed::state_view<float>) {}
void resume(const heed::linear::options<>&) {}

struct threads {
  heed::index_t count;
  heed::index_t concurrency() const { return count; }
  template <class F> void parallel_for(heed::index_t n, F&& f) const {
    for (heed::index_t i = 0; i < n; ++i) f(i);
  }
};
const threads constant() { return {2}; }
float plain(float s, const heed::position&) { return s; }
bool first(const heed::position& at) { return at.key == 0; }

void calls(std::vector<float>& q, float* p, heed::tensor_view<float, 5> five) {
  float array[4] = {};
  std::array<float, 9> big{};
  const auto visible = [](const heed::position& at) { return at.key == 0; };
  int not_executor = 0;
  threads two{2};
  heed::state<> memory(1, 1, 4, 4);
#ifndef REFUSED
  attend(q, {.mask = heed::causal(), .align = heed::top_left, .score = [](float s, heed::position) { return s; }},
         {.executor = two});
  attend(q, {.mask = heed::visible_if(first), .score = plain}, {.executor = two});
  attend(q, {.mask = heed::visible_if(visible), .alibi_slopes = std::vector<double>{1, 2}, .lse = array});
  static_cast<void>(heed::key_lengths({1, 2})), static_cast<void>(heed::log_gates(array)), decode(memory);
#elif REFUSED == 1
  attend(q, {.mask = heed::causal});
#elif REFUSED == 2
  attend(q, {.mask = true});
#elif REFUSED == 3
  attend(q, {.mask = visible});
#elif REFUSED == 4
  attend(q, {.align = true});
#elif REFUSED == 5
  attend(q, {.align = 3});
#elif REFUSED == 6
  attend(q, {.align = array});
#elif REFUSED == 7
  attend(q, {.align = p});
#elif REFUSED == 8
  attend(q, {.lse = p});
#elif REFUSED == 9
  attend(q, {.score = [](float s) { return s; }});
#elif REFUSED == 10
  attend(q, {.score = [big](float s, const heed::position&) { return s * big[0]; }});
#elif REFUSED == 11
  attend(q, {.score = [q](float s, const heed::position&) { return s * q[0]; }});
#elif REFUSED == 12
  attend(q, {}, {.executor = threads{2}});
#elif REFUSED == 13
  attend(q, {}, {.executor = not_executor});
#elif REFUSED == 14
  attend(q, {.bias = five});
#elif REFUSED == 15
  attend(q, {.bias = std::vector<float>(16)});
#elif REFUSED == 16
  attend(q, {.alibi_slopes = std::vector<int>{1, 2}});
#elif REFUSED == 17
  attend(q, {.mask = heed::key_lengths(std::vector<long long>{1, 2})});
#elif REFUSED == 18
  attend(q, {.mask = heed::visible_if([big](const heed::position& at) { return at.key < big[0]; })});
#elif REFUSED == 19
  static_cast<void>(heed::log_gates(std::vector<float>{-1, -1}));
#elif REFUSED == 20
  decode(heed::state<>(1, 1, 4, 4));
#elif REFUSED == 21
  resume({.initial_state = heed::state<>(1, 1, 4, 4)});
#elif REFUSED == 22
  attend(q, {.alibi_slopes = true});
#elif REFUSED == 23
  attend(q, {}, {.executor = 8});
#elif REFUSED == 24
  attend(q, {}, {.executor = &two});
#elif REFUSED == 25
  attend(q, {}, {.executor = constant()});
#elif REFUSED == 26
  attend(q, {.score = [not_executor](float s, const heed::position&) mutable { return s + float(++not_executor); }});
#elif REFUSED == 27
  static_cast<void>(heed::log_gates(p));
#endif
  static_cast<void>(p), static_cast<void>(five), static_cast<void>(not_executor), static_cast<void>(big);
}
