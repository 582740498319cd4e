// SPDX-License-Identifier: BSD-3-Clause

// Random calls, their parts, and how far two results of one call may be apart.

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "support/law_cases.hpp"
#include "support/shapes.hpp"
#include "support/tolerance.hpp"

namespace heed_test {

double rounded(number_type type, double x) {
  switch (type) {
    case number_type::f64:
      return x;
    case number_type::f32:
      return static_cast<double>(static_cast<float>(x));
    case number_type::bf16:
      return static_cast<double>(rounded(stored::bf16, static_cast<float>(x)));
    default:
      return static_cast<double>(rounded(stored::f16, static_cast<float>(x)));
  }
}

const char* name_of(kernel of) {
  constexpr const char* names[] = {"softmax", "sparse_query", "mixture_of_head", "linear", "lightning", "local_linear"};
  return names[static_cast<int>(of)];
}
const char* name_of(number_type type) {
  constexpr const char* names[] = {"double", "float", "bf16", "f16"};
  return names[static_cast<int>(type)];
}

index_t law_call::features() const {
  const index_t d = q.extent(3);
  return of == kernel::linear && feature == heed::feature::taylor ? 1 + d + d * d : d;
}
index_t law_call::state_heads() const {
  if (of == kernel::linear) return kv_heads();
  return gates.empty() ? static_cast<index_t>(slopes.size()) : gates.extent(1);
}

std::string to_string(const law_call& x) {
  std::string text =
      std::string(name_of(x.of)) + " in " + name_of(x.type) + (x.narrow_o ? ", o too, " : ", ") +
      to_string(shape{x.batch(), x.heads(), x.kv_heads(), x.queries(), x.keys(), x.q.extent(3), x.v.extent(3)});
  const auto say = [&](bool yes, const char* what) { text += yes ? std::string(", ") + what : ""; };
  if (x.scale) text += ", scale " + std::to_string(*x.scale);
  say(x.softcap > 0, "softcap"), say(x.alibi > 0, "alibi"), say(!x.sinks.empty(), "sinks");
  say(!x.bias.empty(), "bias"), say(!x.s0.empty(), "state"), say(!x.gates.empty(), "gates");
  say(!x.slopes.empty(), "slopes"), say(x.of == kernel::linear && x.normalize, "normalised");
  if (x.of == kernel::linear) text += ", feature " + std::to_string(static_cast<int>(x.feature));
  if (x.of == kernel::local_linear) text += ", solver " + std::to_string(static_cast<int>(x.solver));
  if (x.chunk > 0) text += ", chunk " + std::to_string(x.chunk);
  return text;
}

law_call random_call(kernel of, number_type type, random_numbers& random) {
  const auto size = [&](std::int32_t most) { return static_cast<index_t>(1 + random.below(most)); };
  const auto yes = [&](double chance) { return random.uniform() < chance; };
  const auto tensor = [&](const extents& n, double by = 1) {
    return law_numbers(n, [&](index_t, index_t, index_t, index_t) { return rounded(type, by * random.normal()); });
  };
  const index_t batch = size(3), kv_heads = size(3), group = size(4);
  index_t heads = kv_heads * group, kv = kv_heads;
  if (of == kernel::sparse_query && yes(0.5)) std::swap(heads, kv);
  const index_t keys = yes(0.2) ? 64 + size(200) : size(70);
  const bool square = of == kernel::lightning || yes(0.3);
  const index_t queries = square ? keys : yes(0.3) ? size(6) : size(60);
  const bool wide = (type == number_type::bf16 || type == number_type::f16) && yes(0.4);  // what units take
  const index_t d = wide ? 32 * size(2) : size(40), e = wide ? 32 * size(2) : yes(0.3) ? d : size(40);

  law_call x;
  x.of = of, x.type = type;
  x.narrow_o = type != number_type::f64 && type != number_type::f32 && (is_recurrent(of) || yes(0.5));
  x.q = tensor({batch, heads, queries, d});
  x.k = tensor({batch, kv, keys, d});
  x.v = tensor({batch, kv, keys, e});
  x.dout = tensor({batch, std::max(heads, kv), queries, e});
  const auto each_head = [&](index_t count, double least, double by) {
    std::vector<double> all;
    for (index_t h = 0; h < count; ++h) all.push_back(least + by * random.uniform());
    return all;
  };
  const number_type sums = type == number_type::f64 ? type : number_type::f32;
  const auto in_sums = [&](double number) { return rounded(sums, number); };

  if (is_recurrent(of)) {
    if (yes(0.5)) x.scale = 0.05 + random.uniform();
    const index_t state_heads = of == kernel::lightning && yes(0.5) ? heads : kv;
    if (of == kernel::lightning && yes(0.5))
      x.gates = law_numbers({batch, state_heads, keys, 1},
                            [&](index_t, index_t, index_t, index_t) { return in_sums(-0.4 * random.uniform()); });
    else if (of == kernel::lightning)
      x.slopes = each_head(state_heads, 0, yes(0.2) ? 3 : 0.3);
    constexpr heed::feature positive[] = {heed::feature::elu_plus_one, heed::feature::exp, heed::feature::softmax};
    constexpr heed::feature any[] = {heed::feature::identity, heed::feature::silu, heed::feature::relu_squared};
    x.normalize = of == kernel::linear && yes(0.6);
    x.feature = (x.normalize ? positive : any)[random.below(3)];
    if (x.normalize && yes(0.5)) x.eps = 1e-3;
    if (of == kernel::linear && yes(0.7)) x.mask = heed::causal();
    if (yes(0.5)) {
      x.s0 = tensor({batch, state_heads, d, e}).mapped(in_sums);
      if (x.normalize)
        x.z0 = law_numbers({batch, state_heads, d, 1},
                           [&](index_t, index_t, index_t, index_t) { return in_sums(0.5 + random.uniform()); });
    }
    return x;
  }
  if (of == kernel::mixture_of_head)
    x.gates = law_numbers({batch, heads, queries, 1},
                          [&](index_t, index_t, index_t, index_t) { return yes(0.4) ? 0 : in_sums(random.normal()); });
  if (of == kernel::local_linear) {
    x.ridge = each_head(x.out_heads(), 1, 8);
    x.q = x.q.mapped([&](double number) { return rounded(type, 0.5 * number); });
    x.k = x.k.mapped([&](double number) { return rounded(type, 0.5 * number); });
  }
  if (yes(0.3)) x.scale = 0.6 * random.uniform();
  if (yes(0.25)) x.softcap = 2 + 5 * random.uniform();
  if (yes(0.25)) x.alibi = in_sums(0.1 * random.uniform());
  if (yes(0.25) && of != kernel::local_linear) x.sinks = each_head(x.out_heads(), -1, 2);
  if (yes(0.25))
    x.bias = law_numbers({yes(0.5) ? 1 : batch, yes(0.5) ? 1 : x.out_heads(), queries, keys},
                         [&](index_t, index_t, index_t, index_t) { return in_sums(random.normal()); });
  if (yes(0.4)) x.mask = heed::causal();
  if (yes(0.2)) x.mask = x.mask & heed::window(size(50), yes(0.5) ? 0 : size(20), random.below(3));
  return x;
}

namespace {

std::vector<double> some(const std::vector<double>& all, index_t first, index_t count) {
  if (all.empty()) return all;
  return {all.begin() + first, all.begin() + first + count};
}

}  // namespace

law_call sequences_of(const law_call& x, index_t first, index_t count) {
  law_call y = x;
  for (law_numbers law_call::*each :
       {&law_call::q, &law_call::k, &law_call::v, &law_call::dout, &law_call::gates, &law_call::s0, &law_call::z0})
    y.*each = (x.*each).part(0, first, count);
  y.bias = x.bias.shared_part(0, first, count);
  return y;
}

law_call heads_of(const law_call& x, index_t first, index_t count) {
  const index_t kv = x.kv_heads();
  const auto of = [&](index_t heads) { return std::pair<index_t, index_t>{first * heads / kv, count * heads / kv}; };
  law_call y = x;
  for (law_numbers law_call::*each : {&law_call::q, &law_call::k, &law_call::v, &law_call::dout, &law_call::gates,
                                      &law_call::s0, &law_call::z0, &law_call::bias}) {
    const law_numbers& from = x.*each;
    const auto [begin, heads] = of(from.extent(1));
    y.*each = from.shared_part(1, begin, heads);
  }
  for (std::vector<double> law_call::*each : {&law_call::slopes, &law_call::ridge, &law_call::sinks}) {
    const auto [begin, heads] = of(static_cast<index_t>((x.*each).size()));
    y.*each = some(x.*each, begin, heads);
  }
  return y;
}

law_call keys_of(const law_call& x, index_t first, index_t count) {
  law_call y = x;
  y.k = x.k.part(2, first, count), y.v = x.v.part(2, first, count), y.bias = x.bias.part(3, first, count);
  return y;
}

law_call queries_of(const law_call& x, index_t first, index_t count) {
  law_call y = x;
  y.q = x.q.part(2, first, count), y.dout = x.dout.part(2, first, count), y.bias = x.bias.part(2, first, count);
  if (x.of == kernel::mixture_of_head) y.gates = x.gates.part(2, first, count);
  const auto place = static_cast<std::int32_t>(x.keys() - x.queries() + first);
  y.align = heed::first_place(std::vector<std::int32_t>(static_cast<std::size_t>(x.batch()), place));
  return y;
}

law_call tokens_of(const law_call& x, index_t first, index_t count) {
  law_call y = x;
  for (law_numbers law_call::*each : {&law_call::q, &law_call::k, &law_call::v, &law_call::dout, &law_call::gates})
    y.*each = (x.*each).part(2, first, count);
  return y;
}

const law_numbers& law_results::operator[](const std::string& name) const {
  for (const auto& [mine, numbers] : each)
    if (mine == name) return numbers;
  static const law_numbers none;
  return none;
}

}  // namespace heed_test
