#pragma once
#include "heed/simd/batch.hpp"
namespace heed::simd { inline namespace HEED_ISA {
template <class T, class S> HEED_INLINE batch<T> load_partial_as(const S* p, index_t n) {
  if constexpr (std::is_same_v<T,S>) return load_partial(p, n); else {
  T x[width<T>] = {}; for (index_t i = 0; i < n; ++i) x[i] = T(p[i]); return load(x); }}
template <class T, class S> HEED_INLINE batch<T> load_as(const S* p) { if constexpr (std::is_same_v<T,S>) return load(p); else return load_partial_as<T>(p, width<T>); }
template <class S, class T> HEED_INLINE void store_partial_as(S* p, batch<T> x, index_t n) {
  if constexpr (std::is_same_v<T,S>) return store_partial(p, x, n); else {
  T y[width<T>]; store(y, x); for (index_t i = 0; i < n; ++i) p[i] = S(y[i]); }}
template <class S, class T> HEED_INLINE void store_as(S* p, batch<T> x) { if constexpr (std::is_same_v<T,S>) return store(p, x); else store_partial_as<S>(p, x, width<T>); }
}}
