// SPDX-License-Identifier: BSD-3-Clause
//
// Trains a byte-level transformer on any text in about a minute, with any of heed's kernels as its attention, and then
// writes text by the kernel's own decode. See docs/training.md; support/transformer.hpp has the model.
//
//   byte_lm [FILE] [--kernel NAME] [--log FILE] [--save FILE] [--resume FILE] [--until STEP] [--threads N] [--write N]
//           [--steps N] [--seed N] [--layers N] [--width N] [--heads N] [--seq N] [--batch N]
//   byte_lm --check       checks gradients, threads, resuming and decode of every kernel on a tiny model
//
// Default text: README, docs and headers of this repository. Every sequence of a batch is a task, and gradients are
// summed in the order of the sequences, so loss curves have the same bits for any number of threads. What a step reads
// depends on its number and the seed alone, so a run resumed from a file has the bits of one that went through.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "support/transformer.hpp"
// after heed
#include <Eigen/Core>

#include "heed/interop/eigen_thread_pool.hpp"
#include "support/compressors.hpp"
#include "support/source_text.hpp"

namespace {

using namespace byte_lm;
using model = transformer<float>;
using executor = heed::eigen_thread_pool_executor;

constexpr std::pair<const char*, index_t settings::*> numbers[] = {
    {"layers", &settings::layers}, {"width", &settings::width}, {"heads", &settings::heads}, {"seq", &settings::seq},
    {"batch", &settings::batch},   {"steps", &settings::steps}, {"seed", &settings::seed},   {"step", &settings::step}};

template <class T> std::vector<matrix<T>> initial_weights(const settings& s) {
  std::mt19937 random(static_cast<unsigned>(s.seed));
  std::normal_distribution<T> normal;
  std::vector<matrix<T>> w = parameters<T>(s);
  for (auto& x : w) {
    const T deviation = &x == &w.front() ? T(0.3) : T(0.6) / std::sqrt(static_cast<T>(x.rows()));
    for (T& each : x.reshaped()) each = deviation * normal(random);
  }
  return w;
}

class trainer {
 public:
  trainer(const settings& given, const std::string& text, const executor& threads)
      : s(given), weights(initial_weights<float>(s)), text_(bytes(text)), threads_(threads) {
    mean_ = square_ = parameters<float>(s);
    held_out_ = std::ssize(text) / 10 / (s.seq / 2), learnt = std::ssize(text) - held_out_ * (s.seq / 2);
    if (learnt < 2 * s.seq || held_out_ < 1) throw std::runtime_error("the text is too short");
    for (index_t b = 0; b < s.batch; ++b) models_.emplace_back(s, weights);
  }
  trainer(const trainer&) = delete;  // the models refer to the weights

  // Runs a step; returns the bits per byte of its batch. Multiples of the golden ratio spread batches evenly.
  double step() {
    const double bits = batch([&](model& m, index_t b) {
      const double place = std::fmod(0.6180339887498949 * real(s.step * s.batch + b) + 0.01 * real(s.seed), 1);
      const unsigned char* text = text_ + static_cast<index_t>(place * real(learnt - s.seq));
      m.forward(text);
      const double cost = m.bits(text);
      m.backward(text);
      return cost;
    });
    const double n = real(++s.step), cosine = 0.5 + 0.5 * std::cos(3.14159265358979 * n / real(s.steps));
    const auto rate = static_cast<float>(3e-3 * std::min(1.0, n / 100) * cosine / (1 - std::pow(0.9, n)));
    const auto correction = static_cast<float>(1 / (1 - std::pow(0.95, n)));
    threads_.parallel_for(std::ssize(weights), [&](index_t i) {
      matrix<float> g = models_[0].gradient[at(i)];
      for (index_t b = 1; b < s.batch; ++b) g += models_[at(b)].gradient[at(i)];
      g /= static_cast<float>(s.batch);
      mean_[at(i)] += 0.1f * (g - mean_[at(i)]);
      square_[at(i)] += 0.05f * (g.cwiseAbs2() - square_[at(i)]);
      weights[at(i)].array() -= rate * mean_[at(i)].array() / ((correction * square_[at(i)]).array().sqrt() + 1e-8f);
    });
    return bits / real(s.batch * s.seq);
  }

  // The last tenth of the text is held out, in pieces of seq/2 bytes. Returns the bits per byte of one in `stride`
  // pieces, each byte predicted from seq/2 or more before it.
  double held_out(index_t stride) {
    const index_t count = (held_out_ + stride - 1) / stride;
    double bits = 0;
    for (index_t i = 0; i < count; i += s.batch)
      bits += batch([&](model& m, index_t b) {
        if (i + b >= count) return 0.0;
        const unsigned char* text = text_ + learnt + ((i + b) * stride - 1) * (s.seq / 2) - 1;
        m.forward(text);
        return m.bits(text, s.seq / 2);
      });
    return bits / real(count * (s.seq / 2));
  }

  // Returns the share of attention in the time of the models since the last call.
  double attention_share() {
    double attention = 0, all = 0;
    for (model& m : models_) attention += std::exchange(m.attention_seconds, 0), all += std::exchange(m.seconds, 0);
    return attention / all;
  }

  // Writes settings, weights and moments as safetensors: little-endian, as the machine is.
  void save(const std::string& path) {
    std::ofstream file(path, std::ios::binary);
    const std::string head = header();
    const std::uint64_t size = head.size();
    file.write(reinterpret_cast<const char*>(&size), 8) << head;
    each_tensor([&](const std::string&, auto& x) { file.write(reinterpret_cast<char*>(x.data()), 4 * x.size()); });
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
  }
  // Continues the run that wrote the file, which had the same settings but for the step.
  void load(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::uint64_t size = 0;
    file.read(reinterpret_cast<char*>(&size), 8);
    std::string head(std::min<std::size_t>(size, 1 << 20), ' ');
    file.read(head.data(), std::ssize(head));
    if (const std::size_t from = head.find("\"step\":\""); from < head.size()) s.step = std::atol(&head[from + 8]);
    if (head != header()) throw std::runtime_error(path + " is not a checkpoint of this run");
    each_tensor([&](const std::string&, auto& x) { file.read(reinterpret_cast<char*>(x.data()), 4 * x.size()); });
    if (!file) throw std::runtime_error(path + " is cut short");
  }

  settings s;
  std::vector<matrix<float>> weights;
  index_t learnt;  // bytes before the held-out text

 private:
  // Returns the sum of f(model, b) over the sequences of a batch.
  template <class F> double batch(const F& f) {
    std::vector<double> results(at(s.batch));
    threads_.parallel_for(s.batch, [&](index_t b) {
      models_[at(b)].seconds -= now();
      results[at(b)] = f(models_[at(b)], b);
      models_[at(b)].seconds += now();
    });
    return std::accumulate(results.begin(), results.end(), 0.0);
  }
  // Runs f(name, tensor) on the weights and on both moments.
  template <class F> void each_tensor(const F& f) {
    const std::pair<const char*, std::vector<matrix<float>>*> lists[] = {
        {"", &weights}, {"adam.mean.", &mean_}, {"adam.square.", &square_}};
    for (const auto& [kind, list] : lists)
      for (index_t i = 0; i < std::ssize(*list); ++i) f(kind + name_of(s, i), (*list)[at(i)]);
  }
  std::string header() {
    std::ostringstream head;
    head << R"({"__metadata__":{"kernel":")" << name_of(s.kind);
    for (const auto& [name, member] : numbers) head << R"(",")" << name << R"(":")" << s.*member;
    head << R"("})";
    index_t end = 0;
    each_tensor([&](const std::string& name, const matrix<float>& x) {
      head << R"(,")" << name << R"(":{"dtype":"F32","shape":[)" << x.rows() << ',' << x.cols();
      head << R"(],"data_offsets":[)" << end << ',' << end + 4 * x.size() << "]}";
      end += 4 * x.size();
    });
    return head.str() + '}' + std::string(7 - head.str().size() % 8, ' ');  // the numbers begin at a multiple of 8
  }

  std::vector<matrix<float>> mean_, square_;
  const unsigned char* text_;
  index_t held_out_;
  executor threads_;
  std::vector<model> models_;
};

// Continues a text of seq/2 bytes or more. A model knows seq places; when they are full, another one begins.
std::string continuation(const trainer& t, std::string text, index_t count) {
  std::mt19937 random(1);
  settings one = t.s;
  one.seq = 1;
  std::optional<model> m;
  for (index_t place = t.s.seq, i = 0; i < count; ++i) {
    if (place == t.s.seq) m.emplace(one, t.weights, t.s.seq), place = 0;
    for (index_t unread = place == 0 ? t.s.seq / 2 : 1; unread > 0; --unread)
      m->forward(bytes(text) + std::ssize(text) - unread, place++);
    const Eigen::ArrayXf p = (m->logits.row(0).array() * 1.25f).exp();  // sharpened a little
    text.push_back(static_cast<char>(std::discrete_distribution<int>(p.begin(), p.end())(random)));
  }
  return text.substr(text.size() - at(count));
}

// ---- self-check ----------------------------------------------------------------------------------------------------

// Moves each matrix of weights in a random direction. Returns the largest difference between the slope of the cost by
// central differences and that of the gradient, over the largest slope. In double.
double gradient_error(const settings& s, const std::string& text) {
  std::vector<matrix<double>> w = initial_weights<double>(s);
  transformer<double> m(s, w);
  m.forward(bytes(text)), m.bits(bytes(text)), m.backward(bytes(text));
  double error = 0, largest = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const matrix<double> start = w[i], way = matrix<double>::Random(start.rows(), start.cols());
    const auto cost = [&](double step) {
      w[i] = start + step * way;
      m.forward(bytes(text));
      return m.bits(bytes(text)) * std::log(2.0) / real(s.seq);
    };
    const double slope = (cost(1e-6) - cost(-1e-6)) / 2e-6;
    cost(0);
    error = std::max(error, std::abs(slope - m.gradient[i].cwiseProduct(way).sum()));
    largest = std::max(largest, std::abs(slope));
  }
  return error / largest;
}

// Returns the largest difference between the logits of forward and those of decode, token by token.
double decode_error(settings s, const std::string& text) {
  const std::vector<matrix<float>> w = initial_weights<float>(s);
  model whole(s, w);
  whole.forward(bytes(text));
  s.seq = 1;
  model steps(s, w, whole.logits.rows());
  float error = 0;
  for (index_t t = 0; t < whole.logits.rows(); ++t) {
    steps.forward(bytes(text) + t, t);
    error = std::max(error, (steps.logits.row(0) - whole.logits.row(t)).cwiseAbs().maxCoeff());
  }
  return static_cast<double>(error);
}

// Returns the costs of all steps and of the held-out text; with a file, a second trainer takes over from it halfway.
std::vector<double> curve(const settings& s, const std::string& text, int threads, const char* file = nullptr) {
  Eigen::ThreadPool pool(threads - 1);
  trainer first(s, text, executor(pool, threads)), second(s, text, executor(pool, threads));
  std::vector<double> costs;
  while (first.s.step < s.steps / 2) costs.push_back(first.step());
  if (file != nullptr) first.save(file), second.load(file), std::remove(file);
  trainer& last = file != nullptr ? second : first;
  while (last.s.step < s.steps) costs.push_back(last.step());
  costs.push_back(last.held_out(1));
  return costs;
}

bool check() {
  std::string text = "the same words for every run, again and again: ";
  while (text.size() < 2000) text += text.substr(text.size() / 3, 100) + std::to_string(text.size());
  bool good = true;
  for (std::size_t k = 0; k < kernel_names.size(); ++k) {
    const settings s{.kind = kernel{k}, .layers = 2, .width = 64, .seq = 32, .batch = 3, .steps = 8};
    const double gradient = gradient_error(s, text), decode = decode_error(s, text);
    const std::vector<double> once = curve(s, text, 1);
    const bool threads = curve(s, text, 3) == once, resumed = curve(s, text, 2, "byte_lm_check.safetensors") == once;
    std::printf("%-16s errors: gradient %.0e, decode %.0e; three threads %s, resumed %s\n", kernel_names[k], gradient,
                decode, threads ? "same bits" : "DIFFER", resumed ? "same bits" : "DIFFERS");
    good = good && gradient < 1e-7 && decode < 1e-4 && threads && resumed && once[7] < once[0];
  }
  return good;
}

// ---- the program ---------------------------------------------------------------------------------------------------

int run(const settings& s, const std::map<std::string, std::string>& option) {
  const auto value = [&](const char* name) { return option.at(name); };
  const std::string text = value("FILE").empty() ? next_byte::read_repository() : next_byte::read_file(value("FILE"));
  Eigen::ThreadPool pool(std::stoi(value("--threads")) - 1);
  trainer t(s, text, executor(pool, std::stoi(value("--threads"))));
  if (!value("--resume").empty()) t.load(value("--resume"));
  std::FILE* const log =
      value("--log").empty() ? nullptr : std::fopen(value("--log").c_str(), t.s.step > 0 ? "a" : "w");
  std::printf("%s attention, %td bytes to learn from, %td held out\n%6s %9s %9s %9s %12s   bits per byte\n",
              name_of(s.kind), t.learnt, std::ssize(text) - t.learnt, "step", "trained", "held out", "tokens/s",
              "in attention");
  const index_t until = std::min<index_t>(s.steps, std::stol(value("--until"))), every = (s.steps + 19) / 20;
  double cost = 0, start = now();
  for (index_t steps = 1; t.s.step < until; ++steps) {
    cost += t.step();
    if (t.s.step % every != 0 && t.s.step != until) continue;
    const double rate = real(steps * s.batch * s.seq) / (now() - start), share = t.attention_share();
    const double trained = cost / real(steps), held_out = t.held_out(8);
    std::printf("%6td %9.3f %9.3f %9.0f %10.1f %%\n", t.s.step, trained, held_out, rate, 100 * share);
    std::fflush(stdout);
    if (log != nullptr)
      std::fprintf(log,
                   "{\"kernel\":\"%s\",\"step\":%td,\"trained\":%.9g,\"held_out\":%.9g,"
                   "\"tokens_per_second\":%.0f,\"attention_share\":%.3f}\n",
                   name_of(s.kind), t.s.step, trained, held_out, rate, share);
    if (!value("--save").empty()) t.save(value("--save"));
    t.attention_share(), cost = 0, steps = 0, start = now();
  }
  const double all = t.held_out(1), counts = next_byte::witten_bell(text, at(t.learnt), 3, false);
  const double learning = next_byte::witten_bell(text, at(t.learnt), 3);
  std::printf("all of the held-out text: %.3f; Witten-Bell order 3: %.3f, %.3f if it goes on learning there\n", all,
              counts, learning);
  if (log != nullptr)
    std::fprintf(log, "{\"kernel\":\"%s\",\"all_held_out\":%.9g,\"witten_bell\":%.9g,\"and_learning\":%.9g}\n",
                 name_of(s.kind), all, counts, learning),
        std::fclose(log);
  const std::string prompt = text.substr(at(t.learnt), at(s.seq / 2));
  std::printf("--- held-out text, >>> and what the model writes ---\n%s>>>%s\n", prompt.c_str(),
              continuation(t, prompt, std::stol(value("--write"))).c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  settings s;
  const std::string cores = std::to_string(std::max(1u, std::thread::hardware_concurrency()));
  std::map<std::string, std::string> o{{"FILE", ""},         {"--kernel", "softmax"}, {"--log", ""},
                                       {"--save", ""},       {"--resume", ""},        {"--until", "999999999"},
                                       {"--threads", cores}, {"--write", "400"}};
  for (const auto& [name, member] : numbers) o[std::string("--") + name] = std::to_string(s.*member);
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--check") return check() ? 0 : 1;
    if (name[0] != '-')
      o["FILE"] = name;
    else if (o.count(name) != 0 && i + 1 < argc)
      o[name] = argv[++i];
    else
      throw std::runtime_error(name + ": the first lines of byte_lm.cpp name the options");
  }
  const auto kind = std::find(kernel_names.begin(), kernel_names.end(), o["--kernel"]) - kernel_names.begin();
  if (kind == std::ssize(kernel_names)) throw std::runtime_error("no kernel " + o["--kernel"]);
  s.kind = static_cast<kernel>(kind);
  for (const auto& [name, member] : numbers)
    if ((s.*member = std::stol(o[std::string("--") + name])) < (member == &settings::step ? 0 : 1))
      throw std::runtime_error(name + std::string(" is too small"));
  if (s.width % (2 * s.heads) != 0 || s.heads % 2 != 0 || s.seq % 2 != 0)
    throw std::runtime_error("heads and seq must be even, and width a multiple of 2 * heads");
  return run(s, o);
} catch (const std::exception& error) {
  return std::fprintf(stderr, "byte_lm: %s\n", error.what()), 2;
}
