// SPDX-License-Identifier: BSD-3-Clause
//
// Measures errors, not time: of heed and of a textbook's loops in float, against sums in double or long double, over
// the number of keys M, the head dim D, the sharpness of the scores, the type of the numbers and the path. Everything
// is seeded. docs/numerics.md shows and explains the figures.
//
//   ./run bench accuracy [--json FILE] [--most M] [--only TEXT]
//     --json   writes the rows to a file; bench/accuracy_torch.py adds those of PyTorch to it
//     --most   no case of more than M keys or tokens; 1048576
//     --only   cases whose "kernel path" contains TEXT
#include "support/recurrent.hpp"

#include <cstring>
#include <string>

#include "heed/cache.hpp"
#include "heed/convert.hpp"
#include "heed/local_linear.hpp"
#include "heed/reference/local_linear.hpp"
#include "support/accuracy_pairwise.hpp"
#include "support/accuracy_recurrent.hpp"
#include "support/backward.hpp"

namespace {

using namespace heed_bench;
using namespace heed_bench::accuracy;
using heed::matrix;

index_t most_keys = 1 << 20;
std::string only;
results all;

bool wanted(const std::string& kernel, const std::string& path, index_t m) {
  return m <= most_keys && (kernel + " " + path).find(only) != std::string::npos;
}
std::vector<index_t> powers_of_4(index_t from, index_t to) {
  std::vector<index_t> x;
  for (; from <= to; from *= 4) x.push_back(from);
  return x;
}
template <class T> std::vector<T> as(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// ---- softmax forward: rows that share keys decide the path ------------------------------------------------------

template <class T> void forward_case(const char* path, index_t n, index_t m, index_t d, scores kind) {
  if (!wanted("softmax", path, m)) return;
  using real = std::conditional_t<std::is_same_v<T, float>, double, long double>;
  constexpr index_t checked = 8;
  const problem x(std::max(n, checked), m, d, kind);
  const auto q = as<T>(x.q), k = as<T>(x.k), v = as<T>(x.v);
  std::vector<T> o(q.size());
  for (index_t i = 0; i < checked; i += n)  // n rows a call
    heed::softmax::forward(matrix(q.data() + i * d, n, d), matrix(k.data(), m, d), matrix(v.data(), m, d),
                           matrix(o.data() + i * d, n, d), {.scale = x.scale()});
  const auto exact = exact_attention<real>(q.data(), k.data(), v.data(), checked, m, d, x.scale());
  const auto naive = naive_rows<T>(q.data(), k.data(), v.data(), checked, m, d, x.scale());
  all.add({"softmax",
           path,
           std::is_same_v<T, float> ? "f32" : "f64",
           name(kind),
           m,
           d,
           -1,
           "",
           {{"heed", error_of(o, exact)}, {"naive", error_of(naive, exact)}}});
}

void forward_rows() {
  constexpr struct {
    const char* path;
    index_t n;
  } paths[] = {{"forward 64 rows", 64}, {"forward 1 row", 1}, {"forward 2 rows", 2}, {"forward 4 rows", 4}};
  for (const auto& [path, n] : paths) {
    for (const index_t m : powers_of_4(16, most_keys)) {
      forward_case<float>(path, n, m, 64, scores::mild);
      forward_case<float>(path, n, m, 64, scores::equal);
    }
    for (const index_t d : {16, 32, 128, 256}) forward_case<float>(path, n, 4096, d, scores::mild);
    for (const scores kind : {scores::times4, scores::times16, scores::dominant})
      for (const index_t m : {4096, 65536}) forward_case<float>(path, n, m, 64, kind);
    for (const index_t m : powers_of_4(256, 65536)) forward_case<double>(path, n, m, 64, scores::mild);
  }
}

// ---- 16-bit numbers in, float out -------------------------------------------------------------------------------

// stored: against what the type has kept; rounded: against the floats before they were rounded
void add_stored(const row& like, const std::vector<float>& o, const problem& x, const std::vector<float>& q,
                const std::vector<float>& k, const std::vector<float>& v, index_t checked) {
  row out = like;
  const auto kept = exact_attention<double>(q.data(), k.data(), v.data(), checked, x.m, x.d, x.scale());
  const auto before = exact_attention<double>(x.q.data(), x.k.data(), x.v.data(), checked, x.m, x.d, x.scale());
  out.by = {{"heed, stored", error_of(o, kept)}, {"heed, before rounding", error_of(o, before)}};
  all.add(out);
}
template <class S> void half_case(const char* type, index_t n, index_t m, scores kind) {
  const char* const path = n == 1 ? "forward 1 row" : "forward 64 rows";
  if (!wanted("softmax", path, m)) return;
  const problem x(std::max<index_t>(n, 8), m, 64, kind);
  const std::vector<S> q = as<S>(x.q), k = as<S>(x.k), v = as<S>(x.v);
  std::vector<float> o(x.q.size());
  const heed::softmax::options<float> options{.scale = x.scale()};
  std::string way;
  for (index_t i = 0; i < 8; i += n) {
    const auto call = [&](auto verb) {
      return verb(matrix(q.data() + i * 64, n, 64), matrix(k.data(), m, 64), matrix(v.data(), m, 64),
                  matrix(o.data() + i * 64, n, 64));
    };
    call([&](auto... t) { heed::softmax::forward(t..., options); });
    way = call([&](auto... t) { return heed::softmax::plan_forward(t..., options); }).path;
  }
  add_stored({"softmax", path, type, name(kind), m, 64, -1, way, {}}, o, x, stored<S>(x.q, 64), stored<S>(x.k, 64),
             stored<S>(x.v, 64), 8);
}
void half_rows() {
  for (const index_t n : {64, 1})
    for (const index_t m : powers_of_4(256, 65536))
      half_case<heed::bf16_t>("bf16", n, m, scores::mild), half_case<heed::f16_t>("f16", n, m, scores::mild);
  half_case<heed::bf16_t>("bf16", 64, 4096, scores::times4), half_case<heed::f16_t>("f16", 64, 4096, scores::times4);
}

// ---- decode with a cache ----------------------------------------------------------------------------------------

template <class S> void decode_case(const char* type, index_t rows, index_t m, scores kind) {
  const char* const path = rows == 1 ? "decode 1 row" : "decode 8 rows";
  if (!wanted("softmax", path, m)) return;
  constexpr index_t d = 64, checked = 8;
  const problem x(checked, m, d, kind);
  heed::cache::contiguous<S> cache(1, 1, m, d, d);
  cache.append(matrix(x.k.data(), m, d), matrix(x.v.data(), m, d));
  std::vector<float> o(x.q.size());
  for (index_t i = 0; i < checked; i += rows)  // heads of one group
    heed::softmax::decode(heed::bhsd(x.q.data() + i * d, 1, rows, 1, d), cache,
                          heed::bhsd(o.data() + i * d, 1, rows, 1, d), {.scale = x.scale()});
  add_stored({"softmax", path, type, name(kind), m, d, -1, "", {}}, o, x, x.q, stored<S>(x.k, d), stored<S>(x.v, d),
             checked);
}
void decode_rows() {
  for (const index_t rows : {1, 8})
    for (const index_t m : powers_of_4(256, 262144)) {
      decode_case<float>("f32", rows, m, scores::mild);
      decode_case<heed::bf16_t>("bf16", rows, m, scores::mild);
      decode_case<heed::f16_t>("f16", rows, m, scores::mild);
      decode_case<std::int8_t>("int8", rows, m, scores::mild);
    }
}

// ---- softmax backward -------------------------------------------------------------------------------------------

void backward_case(const char* path, index_t n, index_t m) {
  if (!wanted("softmax", path, std::max(n, m))) return;
  const shape s{.n = n, .m = m, .d = 64, .e = 64};
  gradient_tensors<float> x(s);
  gradient_tensors<double> exact(s);
  exact.x.q = as<double>(x.x.q), exact.x.k = as<double>(x.x.k), exact.x.v = as<double>(x.x.v);
  exact.dout = as<double>(x.dout);
  exact.forward(), naive_backward(exact);
  gradient_tensors<float> naive = x;
  naive_backward(naive);
  x.backward();
  const auto add = [&](const char* which, const auto& ours, const auto& theirs, const auto& expected) {
    all.add({"softmax",
             std::string(path) + " " + which,
             "f32",
             "mild",
             std::max(n, m),
             s.d,
             -1,
             "",
             {{"heed", error_of(ours, expected)}, {"naive", error_of(theirs, expected)}}});
  };
  add("dq", x.dq, naive.dq, exact.dq), add("dk", x.dk, naive.dk, exact.dk), add("dv", x.dv, naive.dv, exact.dv);
}
void backward_rows() {
  for (const index_t m : powers_of_4(64, 16384)) backward_case("backward 64 rows", 64, m);
  for (const index_t n : powers_of_4(64, 16384)) backward_case("backward 64 keys", n, 64);
}

// ---- linear and lightning ---------------------------------------------------------------------------------------

void recurrent_case_of(index_t m, double slope, bool normalized) {
  const char* const kernel = normalized ? "linear" : "lightning";
  const bool forward = wanted(kernel, "forward", m), decode = wanted(kernel, "decode", m);
  if (!forward && !decode) return;
  constexpr index_t d = 64;
  const problem x(m, m, d);
  const recurrent_case c{m, d, std::exp(-slope), normalized};
  const auto exact = c.exact(x), naive = as<double>(c.naive(x));
  const auto q = matrix(x.q.data(), m, d), k = matrix(x.k.data(), m, d), v = matrix(x.v.data(), m, d);
  const auto measure = [&](const char* path, auto call) {
    std::vector<float> o(x.q.size());
    call(matrix(o.data(), m, d));
    o.erase(o.begin(), o.end() - static_cast<index_t>(exact.size()));
    all.add({kernel,
             path,
             "f32",
             "mild",
             m,
             d,
             c.lambda,
             "",
             {{"heed", error_of(o, exact)}, {"naive", error_of(naive, exact)}}});
  };
  heed::state<float> memory(1, 1, d, d);
  const std::vector<double> slopes{slope};
  const heed::decay<float> decay(slopes);
  if (forward)
    measure("forward", [&](auto o) {
      normalized ? heed::linear::forward(q, k, v, o, {.mask = heed::causal()})
                 : heed::lightning::forward(q, k, v, decay, o);
    });
  if (decode)
    measure("decode", [&](auto o) {
      normalized ? heed::linear::decode(q, k, v, memory, o, {}) : heed::lightning::decode(q, k, v, decay, memory, o);
    });
}
void recurrent_rows() {
  for (const index_t m : powers_of_4(16, most_keys)) {
    recurrent_case_of(m, 0, true);
    for (const double slope : {0.0, 0x1p-14, 0x1p-8, 0.5}) recurrent_case_of(m, slope, false);
  }
}

// ---- local linear -----------------------------------------------------------------------------------------------

void local_linear_case(index_t m, index_t d, double ridge) {
  constexpr struct {
    const char* path;
    heed::local_linear::solver solver;
  } paths[] = {{"forward", heed::local_linear::solver::automatic},
               {"forward, direct", heed::local_linear::solver::direct}};
  constexpr index_t checked = 8;
  const problem x(64, m, d);
  const auto k = matrix(x.k.data(), m, d), v = matrix(x.v.data(), m, d);
  std::vector<double> exact;
  for (const auto& [path, solver] : paths) {
    if (!wanted("local linear", path, m)) continue;
    if (exact.empty()) {
      exact.resize(static_cast<std::size_t>(checked * d));
      heed::reference::local_linear::forward(matrix(x.q.data(), checked, d), k, v, heed::per_head(ridge),
                                             matrix(exact.data(), checked, d));
    }
    std::vector<float> o(x.q.size());
    heed::local_linear::forward(matrix(x.q.data(), 64, d), k, v, ridge, matrix(o.data(), 64, d), {.solver = solver});
    char type[40];
    std::snprintf(type, sizeof type, "ridge %g", ridge);
    all.add({"local linear",
             path,
             "f32",
             type,
             m,
             d,
             -1,
             "",
             {{"heed", error_of(o, exact)},
              {"naive", error_of(naive_local_linear(x, static_cast<float>(ridge), checked), exact)}}});
  }
}
void local_linear_rows() {
  for (const index_t m : powers_of_4(16, 65536)) local_linear_case(m, 64, 0.1);
  for (const double ridge : {0.001, 10.0}) local_linear_case(4096, 64, ridge);
  for (const index_t d : {16, 128}) local_linear_case(4096, d, 0.1);
}

}  // namespace

int main(int argc, char** argv) {
  std::string file;
  for (int i = 1; i < argc; i += 2) {
    const std::string word = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (value != nullptr && word == "--json")
      file = value;
    else if (value != nullptr && word == "--most")
      most_keys = std::atol(value);
    else if (value != nullptr && word == "--only")
      only = value;
    else
      return std::fprintf(stderr, "accuracy_bench [--json FILE] [--most M] [--only TEXT]\n"), 2;
  }
  forward_rows(), half_rows(), decode_rows(), backward_rows(), recurrent_rows(), local_linear_rows();
  std::printf("level %s, %s\n", heed::level(), build_flags().c_str());
  if (all.empty()) return std::fprintf(stderr, "no case matches\n"), 1;
  if (!file.empty() && !all.write(file)) return std::fprintf(stderr, "cannot write %s\n", file.c_str()), 1;
  return 0;
}
