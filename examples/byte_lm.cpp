// SPDX-License-Identifier: BSD-3-Clause
//
// Trains a byte-level transformer on any text in about a minute, with any of heed's kernels as its attention, and then
// writes text by the kernel's own decode. docs/training.md explains it.
//
//   byte_lm [FILE] [--kernel NAME] [--log FILE] [--save FILE] [--resume FILE] [--until STEP] [--threads N] [--write N]
//           [--layers N] [--width N] [--heads N] [--seq N] [--batch N] [--steps N] [--seed N]
//   byte_lm --check       checks gradients, threads, resuming and decode of every kernel on a tiny model
//
// Default text: README, docs and headers of this repository. Every sequence of a batch is a task, and gradients are
// summed in the order of the sequences, so loss curves have the same bits for any number of threads.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>
#include <thread>

#include "support/transformer.hpp"
// after heed
#include "heed/interop/eigen_thread_pool.hpp"
#include "support/compressors.hpp"
#include "support/source_text.hpp"

namespace {

using namespace byte_lm;
using model = transformer<float>;
using weight_list = std::vector<matrix<float>>;

struct number {
  const char* name;
  index_t settings::*member;
};
constexpr number numbers[] = {{"layers", &settings::layers}, {"width", &settings::width}, {"heads", &settings::heads},
                              {"seq", &settings::seq},       {"batch", &settings::batch}, {"steps", &settings::steps},
                              {"step", &settings::step},     {"seed", &settings::seed}};

kernel kernel_of(const std::string& name) {
  for (std::size_t i = 0; i < kernel_names.size(); ++i)
    if (name == kernel_names[i]) return static_cast<kernel>(i);
  throw std::runtime_error("no kernel " + name);
}

template <class T> std::vector<matrix<T>> initial_weights(const settings& s) {
  std::mt19937 random(static_cast<unsigned>(s.seed));
  std::normal_distribution<T> normal;
  std::vector<matrix<T>> w = parameters<T>(s);
  for (auto& x : w) {
    const T deviation = &x == &w.front() ? T(0.3) : T(0.6) / std::sqrt(static_cast<T>(x.rows()));
    x = matrix<T>::NullaryExpr(x.rows(), x.cols(), [&] { return deviation * normal(random); });
  }
  return w;
}

// A model in training. What a step reads depends on its number and the seed alone, so a resumed run has the bits of one
// that went through.
class trainer {
 public:
  trainer(const settings& given, const std::string& text, index_t threads)
      : s(given), weights(initial_weights<float>(s)), text_(&text), mean_(parameters<float>(s)), square_(mean_),
        pool_(static_cast<int>(threads - 1)), executor_(pool_, threads) {
    for (index_t b = 0; b < s.batch; ++b) models_.emplace_back(s, weights);
    if (first_held_out() < 2 * s.seq || pieces() < 1) throw std::runtime_error("the text is too short");
  }

  // The last tenth of the text, in pieces of seq/2 bytes, is held out.
  index_t pieces() const { return std::ssize(*text_) / 10 / (s.seq / 2); }
  index_t first_held_out() const { return std::ssize(*text_) - pieces() * (s.seq / 2); }

  // Runs a step of Adam; returns the bits per byte of its batch. Multiples of the golden ratio spread batches evenly.
  double step() {
    const double bits = batch([&](model& m, index_t b) {
      const double place = std::fmod(0.6180339887498949 * real(s.step * s.batch + b) + 0.01 * real(s.seed), 1);
      const unsigned char* text = byte(static_cast<index_t>(place * real(first_held_out() - s.seq)));
      m.forward(text);
      const double cost = m.bits(text);
      m.backward(text);
      return cost;
    });
    const double n = real(++s.step), cosine = 0.5 + 0.5 * std::cos(3.14159265358979 * n / real(s.steps));
    const auto rate = static_cast<float>(3e-3 * std::min(1.0, n / 100) * cosine / (1 - std::pow(0.9, n)));
    const auto correction = static_cast<float>(1 / (1 - std::pow(0.95, n)));
    executor_.parallel_for(std::ssize(weights), [&](index_t i) {
      matrix<float> g = models_[0].gradient[at(i)];
      for (index_t b = 1; b < s.batch; ++b) g += models_[at(b)].gradient[at(i)];
      g /= static_cast<float>(s.batch);
      mean_[at(i)] += 0.1f * (g - mean_[at(i)]);
      square_[at(i)] += 0.05f * (g.cwiseAbs2() - square_[at(i)]);
      weights[at(i)].array() -= rate * mean_[at(i)].array() / ((correction * square_[at(i)]).array().sqrt() + 1e-8f);
    });
    return bits / real(s.batch * s.seq);
  }

  // Returns the bits per byte of one in `stride` pieces of the held-out text, each byte predicted from seq/2 or more.
  double held_out(index_t stride) {
    const index_t count = (pieces() + stride - 1) / stride;
    double bits = 0;
    for (index_t i = 0; i < count; i += s.batch)
      bits += batch([&](model& m, index_t b) {
        if (i + b >= count) return 0.0;
        const unsigned char* text = byte(first_held_out() + ((i + b) * stride - 1) * (s.seq / 2) - 1);
        m.forward(text);
        return m.bits(text, s.seq / 2);
      });
    return bits / real(count * (s.seq / 2));
  }

  // Writes settings, weights and moments of Adam as safetensors, in the machine's order of bytes: little-endian.
  void save(const std::string& path) {
    std::ofstream file(path, std::ios::binary);
    const std::string head = header();
    const std::uint64_t size = head.size();
    file.write(reinterpret_cast<const char*>(&size), 8) << head;
    for (auto* x : tensors()) file.write(reinterpret_cast<const char*>(x->data()), 4 * x->size());
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
  }
  // Reads what save wrote.
  static trainer resume(const std::string& path, const std::string& text, index_t threads) {
    std::ifstream file(path, std::ios::binary);
    std::uint64_t size = 0;
    file.read(reinterpret_cast<char*>(&size), 8);
    std::string head(file && size < 1 << 20 ? size : 0, ' ');
    file.read(head.data(), std::ssize(head));
    const auto value = [&](const std::string& key) {
      const std::size_t from = head.find("\"" + key + "\":\"");
      if (from == head.npos) throw std::runtime_error(path + " is not a checkpoint of byte_lm");
      return head.substr(from + key.size() + 4, head.find('"', from + key.size() + 4) - from - key.size() - 4);
    };
    settings s{.kind = kernel_of(value("kernel"))};
    for (const number& n : numbers) s.*n.member = std::stol(value(n.name));
    trainer t(s, text, threads);
    for (auto* x : t.tensors()) file.read(reinterpret_cast<char*>(x->data()), 4 * x->size());
    if (!file || head != t.header()) throw std::runtime_error(path + " is not a checkpoint of byte_lm");
    return t;
  }

  // Continues a text of at least seq/2 bytes. The model has seen seq places, so it starts anew when these are full.
  std::string write(std::string text, index_t count) {
    std::mt19937 random(1);
    settings one = s;
    one.seq = 1;
    std::string out;
    while (std::ssize(out) < count) {
      model m(one, weights, s.seq);
      const std::string prompt = text.substr(text.size() - at(s.seq / 2));
      for (index_t t = 0; t < s.seq && std::ssize(out) < count; ++t) {
        ...
      }
    }
    return out;
  }
};
