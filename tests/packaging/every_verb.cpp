// SPDX-License-Identifier: BSD-3-Clause
// Every verb and every reference of them, compiled for float and double.

#include "every_verb.hpp"

#include "heed/reference/lightning.hpp"
#include "heed/reference/lightning_backward.hpp"
#include "heed/reference/linear.hpp"
#include "heed/reference/linear_backward.hpp"
#include "heed/reference/local_linear.hpp"
#include "heed/reference/mixture_of_head.hpp"
#include "heed/reference/softmax.hpp"
#include "heed/reference/sparse_query.hpp"

template <class T> bool use_references(const every_verb<T>& x, const heed::per_head& ridge, heed::state<T>& memory) {
  namespace reference = heed::reference;
  const heed::decay<T> decay = heed::log_gates(x.given);
  reference::softmax::forward(x.q, x.k, x.v, x.o);
  reference::softmax::backward(x.q, x.k, x.v, x.o, x.o, {.dq = x.o});
  reference::sparse_query::backward(x.q, x.k, x.v, x.o, x.o, {.dq = x.o});
  reference::mixture_of_head::backward(x.q, x.k, x.v, x.given, x.o, x.o, {.dgates = x.written});
  reference::softmax::merge(x.o, x.written, x.v, x.given);
  const heed::cache::ring<T> cache(x.q.extent(0), x.k.extent(1), 9, x.k.extent(3), x.v.extent(3));
  reference::softmax::decode(x.q, cache, x.o);
  reference::sparse_query::decode(x.q, heed::shared_prefix(cache, cache), x.o);
  reference::local_linear::decode(x.q, cache, ridge, x.o);
  reference::mixture_of_head::decode(x.q, cache, x.given, x.o);
  reference::sparse_query::forward(x.q, x.k, x.v, x.o);
  reference::linear::forward(x.q, x.k, x.v, x.o);
  reference::linear::backward(x.q, x.k, x.v, x.q, x.q, {.dq = x.o});
  reference::linear::quadratic(x.q, x.k, x.v, x.o);
  reference::linear::decode(x.q, x.k, x.v, memory, x.o);
  reference::lightning::forward(x.q, x.k, x.v, decay, x.o);
  reference::lightning::backward(x.q, x.k, x.v, decay, x.q, {.dv = x.o});
  reference::lightning::quadratic(x.q, x.k, x.v, decay, x.o);
  reference::lightning::decode(x.q, x.k, x.v, decay, memory, x.o);
  reference::local_linear::forward(x.q, x.k, x.v, ridge, x.o);
  reference::local_linear::apply(x.q, x.k, x.v, x.q, x.o);
  reference::mixture_of_head::forward(x.q, x.k, x.v, x.given, x.o);
  reference::mixture_of_head::route_by_norm(x.q, {}, x.written);
  reference::mixture_of_head::route_trained(x.given, x.given, x.given, {}, x.written);
  return every_verb<T>::use(x);
}
template bool use_references(const every_verb<float>&, const heed::per_head&, heed::state<float>&);
template bool use_references(const every_verb<double>&, const heed::per_head&, heed::state<double>&);
