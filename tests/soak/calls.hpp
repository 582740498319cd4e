// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Random calls that can run again and again, on several threads at once, and what all verbs share of them: where and in
// which manner a run takes place, and the bits that it gives.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/error.hpp"
#include "heed/core/factories.hpp"
#include "heed/core/plan.hpp"
#include "support/buffer.hpp"
#include "support/shapes.hpp"
#include "support/throwing.hpp"

namespace heed_test {

// A run allocates its scratch, gets a workspace, or one that is too small, or an output of a wrong shape, or a function
// that throws.
enum class manner { plain, workspace, small_workspace, wrong_shape, throwing };
inline constexpr manner manners[] = {manner::plain, manner::workspace, manner::small_workspace, manner::wrong_shape,
                                     manner::throwing};

// Where a run takes place. The memory of the workspace belongs to the thread and only grows.
struct place {
  heed::executor_ref executor = {};
  manner how = manner::plain;
  long throws_at = 0;
  std::vector<std::byte>* workspace = nullptr;
};

// The bits of all outputs; 0 where the run was refused, as it had to be. wrong: what should not have happened
struct outcome {
  std::uint64_t hash = 0;
  std::string wrong = {};
};

struct random_call {
  std::string name;
  std::function<outcome(const place&)> run;
};

// Of the numbers of outputs; all NaN are one, since their bits may depend on the executor.
class hash_of {
 public:
  template <class... Buffers> explicit hash_of(const Buffers&... all) { (add(all), ...); }
  operator std::uint64_t() const { return hash_ | 1; }

  template <class T> void add(const buffer<T>& x) {
    x.each([this](const T& number) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, &number, sizeof(T));
      if constexpr (!std::is_integral_v<T>)
        if (const auto value = static_cast<heed::detail::acc_t<T>>(number); std::isnan(value)) bits = ~std::uint64_t{0};
      hash_ = (hash_ ^ bits) * 1099511628211u;
      hash_ ^= hash_ >> 32;
    });
  }

 private:
  std::uint64_t hash_ = 14695981039346656037u;
};

// Runs a verb that writes o, and more, as the place says. plan(o, context), run(o, context): with a view of o; hash():
// of all that it writes; f: the fuse of its functions
template <class O, class Plan, class Run, class Hash>
outcome run_verb(const place& at, const buffer<O>& o, fuse& f, const Plan& plan, const Run& run, const Hash& hash) {
  outcome result;
  heed::context context{.executor = at.executor};
  const auto view = o.view();
  const auto refused = [&](heed::tensor_view<O, 4> to) {
    try {
      run(to, context);
      result.wrong = "no error";
    } catch (const heed::error&) {
      if (!o.untouched()) result.wrong = "refused, but o is written";
    }
    return result;
  };
  if (at.how == manner::wrong_shape) return refused(heed::slice(view, 3, 0, view.extent(3) - 1));
  if (at.how == manner::workspace || at.how == manner::small_workspace) {
    const std::size_t bytes = plan(view, context).workspace_bytes;
    if (at.workspace->size() < bytes + 1) at.workspace->resize(2 * bytes + 1);
    context.workspace = {at.workspace->data() + 1, bytes};
    if (at.how == manner::small_workspace && bytes > 1) {
      context.workspace = context.workspace.first(bytes - 1);
      return refused(view);
    }
  }
  if (at.how == manner::throwing) f.at = at.throws_at, f.again = true;
  const std::string thrown = outcome_of([&] { run(view, context); });
  if (thrown != (f.at >= 0 && f.calls > f.at ? "text" : ""))
    result.wrong = "threw " + (thrown.empty() ? "nothing" : thrown);
  else if (thrown.empty())
    result.hash = hash();
  if (!o.canaries_alive()) result.wrong = "wrote beside o";
  return result;
}

inline index_t any_of(random_numbers& random, std::initializer_list<index_t> list) {
  return list.begin()[random.below(static_cast<std::int32_t>(list.size()))];
}

// divides: query heads are a multiple of the others
inline shape random_shape(random_numbers& random, bool divides, bool square = false) {
  constexpr struct {
    index_t heads, kv_heads;
  } groups[] = {{1, 1}, {4, 2}, {2, 1}, {6, 2}, {3, 3}, {2, 4}};
  const auto& group = groups[random.below(divides ? 5 : 6)];
  shape s{any_of(random, {1, 1, 2}),
          group.heads,
          group.kv_heads,
          any_of(random, {1, 2, 5, 17, 40, 70}),
          any_of(random, {1, 7, 33, 64, 100, 180}),
          any_of(random, {8, 16, 20, 32, 64}),
          any_of(random, {8, 16, 24, 32, 64})};
  if (square) s.keys = s.queries;
  return s;
}
template <class T> buffer<T> random_input(random_numbers& random, const extents& n, double size = 1) {
  const auto all = static_cast<std::int32_t>(std::size(input_layouts));
  buffer<T> x = buffer<T>::input(n, input_layouts[random.below(all)], random.below(3));
  x.each([&](T& number) { number = T(static_cast<heed::detail::acc_t<T>>(size * random.normal())); });
  return x;
}
// A layout of outputs: the same in every run of a call
inline layout output_layout(random_numbers& random) {
  return output_layouts[random.below(static_cast<std::int32_t>(std::size(output_layouts)))];
}

template <class T> const char* type_name() {
  return std::is_same_v<T, float>          ? "float"
         : std::is_same_v<T, double>       ? "double"
         : std::is_same_v<T, heed::bf16_t> ? "bf16"
         : std::is_same_v<T, heed::f16_t>  ? "f16"
                                           : "int8";
}

}  // namespace heed_test
