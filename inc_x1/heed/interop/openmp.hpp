// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// OpenMP as an executor. Include it by name and compile with OpenMP (-fopenmp, or CMake's OpenMP::OpenMP_CXX).

#if !defined(_OPENMP)
#error "heed: heed/interop/openmp.hpp needs OpenMP: compile with -fopenmp, or link OpenMP::OpenMP_CXX in CMake"
#else

#include <omp.h>

#include <algorithm>

#include "heed/core/config.hpp"
#include "heed/core/types.hpp"

namespace heed {
namespace detail {
inline namespace HEED_ISA {

// The worksharing loop runs each index once, however few threads the runtime grants. schedule(static, 1) keeps index i,
// and so its scratch, on thread i from call to call.
template <class F> void openmp_run(int threads, index_t n, const F& f) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (index_t i = 0; i < n; ++i) f(i);
}

}  // namespace HEED_ISA
}  // namespace detail

// Runs on OpenMP's threads:
//   heed::openmp_executor threads;
//   heed::softmax::forward(q, k, v, o, {}, {.executor = threads});
// Its only state is a number of threads: it may be copied, shared and called from inside a parallel region. There it
// offers one thread unless nesting is on (omp_set_max_active_levels), so call plan_forward where you call forward.
class openmp_executor {
 public:
  // threads: how many at most, the calling one included; below 1: as many as a parallel region would get at the time of
  // each call (OMP_NUM_THREADS, omp_set_num_threads).
  HEED_INLINE explicit openmp_executor(index_t threads = 0) noexcept : threads_(threads) {}

  // At least 1 and never above OMP_THREAD_LIMIT.
  HEED_INLINE index_t concurrency() const noexcept {
    if (omp_get_active_level() >= omp_get_max_active_levels()) return 1;
    const index_t asked = threads_ < 1 ? omp_get_max_threads() : threads_;
    return std::clamp<index_t>(asked, 1, std::max(omp_get_thread_limit(), 1));
  }

  // f(0) .. f(n - 1) once each, then returns. f must not throw: OpenMP lets no exception out of a region.
  template <class F> HEED_INLINE void parallel_for(index_t n, const F& f) const {
    if (n > 0) detail::openmp_run(static_cast<int>(std::min(n, concurrency())), n, f);
  }

 private:
  index_t threads_;
};

}  // namespace heed

#endif
