// SPDX-License-Identifier: BSD-3-Clause

// gradients_of_file IN OUT: reads calls from a safetensors file that examples/torch_check.py has written, runs forward
// and backward of their kernels in float and in double, and writes o and all gradients as CASE/float/NAME and
// CASE/double/NAME to another.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <fstream>
#include <list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "heed/heed.hpp"
#include "support/golden.hpp"

namespace {

using heed::index_t;
using heed_test::golden_file;
using heed_test::golden_tensor;

// Tensors in double, written as a safetensors file
class results {
 public:
  template <class T> void add(const std::string& name, const golden_tensor<T>& x) {
    const std::size_t first = bytes_.size();
    for (const T number : x.data) {
      const double wide = static_cast<double>(number);
      char raw[sizeof wide];
      std::memcpy(raw, &wide, sizeof wide);
      bytes_.append(raw, sizeof wide);
    }
    header_[name] = {{"dtype", "F64"}, {"shape", x.shape}, {"data_offsets", {first, bytes_.size()}}};
  }
  void write(const char* path) const {
    const std::string header = header_.dump();
    const std::uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << header << bytes_;
    if (!file.flush()) throw std::runtime_error("cannot write " + std::string(path));
  }

 private:
  nlohmann::json header_ = nlohmann::json::object();
  std::string bytes_;
};

// One call: its inputs by name, and its outputs, which are kept until all are written.
template <class T> class call {
 public:
  call(const golden_file& file, const std::string& name, results& to, const char* type)
      : file_(file), at_(name + "/"), out_(name + "/" + type + "/"), to_(to) {}

  bool has(const char* name) const { return file_.has(at_ + name); }
  double number(const char* key) const { return file_.number(at_ + key); }
  std::string text(const char* key) const { return file_.text(at_ + key); }
  const golden_tensor<T>& input(const char* name) { return inputs_.emplace_back(file_.tensor<T>(at_ + name)); }
  template <int Rank> heed::tensor_view<const T, Rank> view(const char* name) {
    return has(name) ? input(name).template cview<Rank>() : heed::tensor_view<const T, Rank>();
  }
  std::vector<double> numbers(const char* name) const {
    return has(name) ? file_.tensor<double>(at_ + name).data : std::vector<double>();
  }
  // An output of the shape of an input; null where the call has no such input
  template <int Rank> heed::tensor_view<T, Rank> output(const char* name, const char* like) {
    if (!has(like)) return {};
    return output<Rank>(name, file_.tensor<T>(at_ + like).shape);
  }
  template <int Rank> heed::tensor_view<T, Rank> output(const char* name, std::vector<index_t> shape) {
    golden_tensor<T> x;
    std::size_t count = 1;
    for (const index_t n : shape) count *= static_cast<std::size_t>(n);
    x.shape = std::move(shape), x.data.resize(count);
    names_.push_back(out_ + name);
    return outputs_.emplace_back(std::move(x)).template view<Rank>();
  }
  void write() const {
    for (std::size_t i = 0; i < names_.size(); ++i) to_.add(names_[i], outputs_[i]);
  }

 private:
  const golden_file& file_;
  std::string at_, out_;
  results& to_;
  std::list<golden_tensor<T>> inputs_;  // views of them stay good
  std::deque<golden_tensor<T>> outputs_;
  std::vector<std::string> names_;
};

// What the softmax family has in common
template <class T, class Options> Options pairwise_options(call<T>& x) {
  Options options;
  if (x.number("causal") != 0) options.mask = heed::causal();
  if (x.number("window") > 0) options.mask = options.mask & heed::window(static_cast<index_t>(x.number("window")));
  options.scale = x.number("scale"), options.softcap = x.number("softcap");
  options.bias = x.template view<4>("bias");
  if (x.has("slopes")) options.alibi_slopes = x.numbers("slopes");
  return options;
}
template <class T, class Gradients> Gradients common_gradients(call<T>& x) {
  Gradients all;
  all.dq = x.template output<4>("dq", "q"), all.dk = x.template output<4>("dk", "k");
  all.dv = x.template output<4>("dv", "v");
  return all;
}

template <class T> void run_softmax(call<T>& x) {
  auto options = pairwise_options<T, heed::softmax::options<T>>(x);
  if (x.has("sinks")) options.sink_logits = x.numbers("sinks");
  const auto q = x.template view<4>("q"), k = x.template view<4>("k"), v = x.template view<4>("v");
  const auto o = x.template output<4>("o", "dout");
  options.lse = x.template output<3>("lse", {o.extent(0), o.extent(1), o.extent(2)});
  heed::softmax::forward(q, k, v, o, options);
  auto gradients = common_gradients<T, heed::softmax::gradients<T>>(x);
  gradients.dbias = x.template output<4>("dbias", "bias");
  gradients.dsink_logits = x.template output<1>("dsinks", "sinks");
  gradients.dalibi_slopes = x.template output<1>("dslopes", "slopes");
  gradients.dlse = x.template view<3>("dlse");
  heed::softmax::backward(q, k, v, o, x.template view<4>("dout"), gradients, options);
}

template <class T> void run_mixture_of_head(call<T>& x) {
  auto options = pairwise_options<T, heed::mixture_of_head::options<T>>(x);
  const auto q = x.template view<4>("q"), k = x.template view<4>("k"), v = x.template view<4>("v");
  const auto gates = x.template view<3>("gates");
  const auto o = x.template output<4>("o", "dout");
  options.lse = x.template output<3>("lse", {o.extent(0), o.extent(1), o.extent(2)});
  heed::mixture_of_head::forward(q, k, v, gates, o, options);
  auto gradients = common_gradients<T, heed::mixture_of_head::gradients<T>>(x);
  gradients.dbias = x.template output<4>("dbias", "bias");
  gradients.dgates = x.template output<3>("dgates", "gates");
  heed::mixture_of_head::backward(q, k, v, gates, o, x.template view<4>("dout"), gradients, options);
}

template <class T> void run_local_linear(call<T>& x) {
  auto options = pairwise_options<T, heed::local_linear::options<T>>(x);
  options.tolerance = std::is_same_v<T, double> ? 1e-13 : 1e-6;
  const auto q = x.template view<4>("q"), k = x.template view<4>("k"), v = x.template view<4>("v");
  const std::vector<double> ridge = x.numbers("ridge");
  const auto o = x.template output<4>("o", "dout");
  heed::local_linear::forward(q, k, v, ridge, o, options);
  auto gradients = common_gradients<T, heed::local_linear::gradients<T>>(x);
  gradients.dbias = x.template output<4>("dbias", "bias");
  gradients.dridge = x.template output<1>("dridge", "ridge");
  heed::local_linear::backward(q, k, v, ridge, x.template view<4>("dout"), gradients, options);
}

heed::feature feature_named(const std::string& name) {
  constexpr const char* names[] = {"identity", "elu_plus_one", "relu",    "relu_squared",
                                   "silu",     "exp",          "softmax", "taylor"};
  for (int i = 0; i < 8; ++i)
    if (name == names[i]) return static_cast<heed::feature>(i);
  throw std::runtime_error(name + ": no such feature map");
}

template <class T> void run_linear(call<T>& x) {
  heed::linear::options<T> options;
  if (x.number("causal") != 0) options.mask = heed::causal();
  options.scale = x.number("scale"), options.eps = x.number("eps"), options.normalize = x.number("normalize") != 0;
  options.feature = feature_named(x.text("feature"));
  options.initial_state = {x.template view<4>("initial_state"), x.template view<3>("initial_z")};
  const auto q = x.template view<4>("q"), k = x.template view<4>("k"), v = x.template view<4>("v");
  const auto o = x.template output<4>("o", "dout");
  heed::linear::forward(q, k, v, o, options);
  auto gradients = common_gradients<T, heed::linear::gradients<T>>(x);
  gradients.dinitial_state = {x.template output<4>("dinitial_state", "initial_state"),
                              x.template output<3>("dinitial_z", "initial_z")};
  gradients.dfinal_state = {x.template view<4>("dfinal_state"), x.template view<3>("dfinal_z")};
  heed::linear::backward(q, k, v, o, x.template view<4>("dout"), gradients, options);
}

template <class T> void run_lightning(call<T>& x) {
  heed::lightning::options<T> options;
  options.scale = x.number("scale");
  options.initial_state.s = x.template view<4>("initial_state");
  const heed::decay<T> decay =
      x.has("gates") ? heed::decay<T>(x.template view<3>("gates")) : heed::decay<T>(x.numbers("slopes"));
  const auto q = x.template view<4>("q"), k = x.template view<4>("k"), v = x.template view<4>("v");
  const auto o = x.template output<4>("o", "dout");
  heed::lightning::forward(q, k, v, decay, o, options);
  auto gradients = common_gradients<T, heed::lightning::gradients<T>>(x);
  gradients.dslopes = x.template output<1>("dslopes", "slopes");
  gradients.dlog_gates = x.template output<3>("dgates", "gates");
  gradients.dinitial_state.s = x.template output<4>("dinitial_state", "initial_state");
  gradients.dfinal_state.s = x.template view<4>("dfinal_state");
  heed::lightning::backward(q, k, v, decay, x.template view<4>("dout"), gradients, options);
}

template <class T> void run(const golden_file& file, const std::string& name, results& to, const char* type) {
  call<T> x(file, name, to, type);
  const std::string kernel = x.text("kernel");
  if (kernel == "softmax")
    run_softmax(x);
  else if (kernel == "mixture_of_head")
    run_mixture_of_head(x);
  else if (kernel == "local_linear")
    run_local_linear(x);
  else if (kernel == "linear")
    run_linear(x);
  else if (kernel == "lightning")
    run_lightning(x);
  else
    throw std::runtime_error(kernel + ": no such kernel");
  x.write();
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s IN.safetensors OUT.safetensors\n", words[0]);
    return 2;
  }
  try {
    const golden_file file = golden_file::at(words[1]);
    results to;
    for (const std::string& name : file.cases())
      run<float>(file, name, to, "float"), run<double>(file, name, to, "double");
    to.write(words[2]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", words[0], e.what());
    return 1;
  }
}
