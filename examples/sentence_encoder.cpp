// SPDX-License-Identifier: BSD-3-Clause
//
// Finds the lines of a file that are nearest to a question in meaning, with the sentence model all-MiniLM-L6-v2.
// `./run encoder` downloads the model and calls this program with it.
//
//   sentence_encoder --model FOLDER [--threads N] [--top N] [FILE [QUERY...]]
//   sentence_encoder --model FOLDER [--threads N] [--tokens] [--save OUT] FILE
//
// Without FILE it takes a small text and queries of its own; without QUERY it reads queries from standard input.
// --tokens prints the tokens of each line of FILE, and --save writes the embeddings, as floats, one line after another.
//
// sentence_encoder/: safetensors.hpp reads the weights, wordpiece.hpp cuts text into tokens, encoder.hpp is the model.
// Lines are grouped into batches of about batch_tokens tokens, in their order and without padding. Every layer calls
// heed::softmax once per batch, with the mask `packed`. Threads take whole batches, so no result depends on how many
// there are.
#include "sentence_encoder/encoder.hpp"
// after heed
#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <future>
#include <iostream>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "sentence_encoder/wordpiece.hpp"

namespace {

using heed::index_t;
using minilm::matrix;
using tokens = std::vector<int>;

constexpr std::size_t batch_tokens = 512;

const std::vector<std::string> own_lines = {
    "The cat sleeps on the warm windowsill.",
    "A dog chased the postman down the street.",
    "Whales sing to each other across whole oceans.",
    "The recipe asks for two eggs and a cup of flour.",
    "Knead the dough until it is smooth, then let it rise.",
    "Our train was an hour late because of the snow.",
    "The airline lost my suitcase on the way to Lisbon.",
    "Interest rates rose again this month.",
    "She pays her rent on the first of every month.",
    "The compiler warns about a variable that is never used.",
    "A segmentation fault is often a pointer that points nowhere.",
    "Water boils at a lower temperature on a mountain.",
    "The moon pulls the sea towards it twice a day.",
    "The goalkeeper saved the penalty in the last minute.",
    "He plays the violin in an orchestra.",
    "The doctor told him to rest and to drink a lot of tea.",
};
const std::vector<std::string> own_queries = {"Why does my program crash?", "how to bake bread", "Musik und Konzerte",
                                              "what causes the tides"};

struct settings {
  std::string model, file, save;
  std::vector<std::string> queries;
  index_t threads = 1, top = 3;
  bool tokens = false;
};

struct usage_error : std::runtime_error {
  using runtime_error::runtime_error;
};

settings parse(const std::vector<std::string>& arguments) {
  settings s;
  bool has_file = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw usage_error(argument + " needs a value");
      return arguments[++i];
    };
    const auto number = [&](index_t& to) {
      const std::string& text = value();
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), to);
      if (error != std::errc() || end != text.data() + text.size() || to < 1 || to > 1024)
        throw usage_error(argument + " takes a number from 1 to 1024, not " + text);
    };
    if (argument == "--model")
      s.model = value();
    else if (argument == "--threads")
      number(s.threads);
    else if (argument == "--top")
      number(s.top);
    else if (argument == "--tokens")
      s.tokens = true;
    else if (argument == "--save")
      s.save = value();
    else if (argument.starts_with("--"))
      throw usage_error("there is no option " + argument + ", only --model, --threads, --top, --tokens and --save");
    else if (!has_file)
      s.file = argument, has_file = true;
    else
      s.queries.push_back(argument);
  }
  if (s.model.empty()) throw usage_error("--model FOLDER is missing; ./run encoder downloads the model and names it");
  return s;
}

std::ifstream open(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return file;
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file = open(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  if (file.bad()) throw std::runtime_error("cannot read " + path);  // a folder, for one
  return lines;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A model out of a folder with config.json, model.safetensors and vocab.txt. If sentence_bert_config.json is there, its
// max_seq_length is the longest sentence that the model was trained on. Longer ones are truncated.
class model {
 public:
  explicit model(const std::string& folder) : words_(read_words(folder)), encoder_(read_encoder(folder)) {
    const minilm::config& sizes = encoder_.sizes();
    if (words_.size() != sizes.vocab_size)
      throw std::runtime_error(folder + "/vocab.txt has " + std::to_string(words_.size()) +
                               " lines, and config.json a vocab_size of " + std::to_string(sizes.vocab_size));
    limit_ = sizes.max_position_embeddings;
    const std::string path = folder + "/sentence_bert_config.json";
    if (std::ifstream file(path, std::ios::binary); file) {
      const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
      const auto found = json.find("max_seq_length");
      if (found == json.end()) throw std::runtime_error(path + " has no max_seq_length");
      if (!found->is_number_unsigned() || *found < 2 || *found > limit_)
        throw std::runtime_error(path + " has " + minilm::shown(*found) + " as max_seq_length, and it is 2 to " +
                                 std::to_string(limit_));
      limit_ = found->get<index_t>();
    }
  }

  const minilm::config& sizes() const { return encoder_.sizes(); }

  std::vector<tokens> cut(const std::vector<std::string>& lines) const {
    std::vector<tokens> all;
    for (const std::string& line : lines) all.push_back(words_(line, static_cast<std::size_t>(limit_)));
    return all;
  }

  // Returns a row for each sentence. Adds what each thread spent in attention, and in all.
  matrix embed(std::span<const tokens> sentences, index_t threads, double& attention, double& all) const {
    std::vector<std::size_t> begins = {0};
    for (std::size_t i = 0, count = 0; i < sentences.size(); ++i) {
      count += sentences[i].size();
      if (i > begins.back() && count > batch_tokens) begins.push_back(i), count = sentences[i].size();
    }
    begins.push_back(sentences.size());

    matrix embeddings(std::ssize(sentences), sizes().hidden_size);
    std::atomic<std::size_t> next = 0;
    const auto work = [&] {
      std::pair<double, double> seconds;
      for (std::size_t batch; (batch = next++) + 1 < begins.size();) {
        const std::size_t begin = begins[batch], count = begins[batch + 1] - begin;
        const double start = now();
        embeddings.middleRows(static_cast<index_t>(begin), static_cast<index_t>(count)) =
            encoder_(sentences.subspan(begin, count), &seconds.first);
        seconds.second += now() - start;
      }
      return seconds;
    };
    std::vector<std::future<std::pair<double, double>>> others;
    for (index_t i = 1; i < threads; ++i) others.push_back(std::async(std::launch::async, work));
    auto seconds = work();
    attention += seconds.first, all += seconds.second;
    for (auto& other : others) seconds = other.get(), attention += seconds.first, all += seconds.second;
    return embeddings;
  }

 private:
  static minilm::wordpiece read_words(const std::string& folder) {
    std::ifstream file = open(folder + "/vocab.txt");
    return minilm::wordpiece(file);
  }
  static minilm::encoder read_encoder(const std::string& folder) {
    std::ifstream configuration = open(folder + "/config.json"), weights = open(folder + "/model.safetensors");
    const auto sizes = minilm::config::read(configuration, folder + "/config.json");
    minilm::safetensors file(weights, folder + "/model.safetensors");
    return minilm::encoder(sizes, file);
  }

  minilm::wordpiece words_;
  minilm::encoder encoder_;
  index_t limit_ = 0;
};

void print_nearest(const model& m, const matrix& embeddings, const std::vector<std::string>& lines,
                   const std::string& query, index_t top) {
  double unused = 0;
  const Eigen::VectorXf nearness = embeddings * m.embed(m.cut({query}), 1, unused, unused).row(0).transpose();
  std::vector<index_t> order(lines.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min<index_t>(top, std::ssize(order));
  std::partial_sort(order.begin(), end, order.end(), [&](index_t a, index_t b) { return nearness[a] > nearness[b]; });
  std::printf("\n%s\n", query.c_str());
  for (auto i = order.begin(); i != end; ++i)
    std::printf("  %5.3f  %s\n", static_cast<double>(nearness[*i]), lines[static_cast<std::size_t>(*i)].c_str());
}

void run(const settings& s) {
  const std::vector<std::string> lines = s.file.empty() ? own_lines : lines_of(s.file);
  if (!std::ifstream(s.model + "/config.json"))
    throw std::runtime_error("there is no model in " + s.model + "; ./run encoder downloads it");
  const double start = now();
  const model m(s.model);
  const double loaded = now();
  const std::vector<tokens> sentences = m.cut(lines);
  if (s.tokens) {
    for (const tokens& ids : sentences)
      for (std::size_t i = 0; i < ids.size(); ++i) std::printf("%d%c", ids[i], i + 1 < ids.size() ? ' ' : '\n');
    return;
  }
  const double cut = now();
  double attention = 0, all = 0;
  const matrix embeddings = m.embed(sentences, s.threads, attention, all);
  const double seconds = now() - cut;
  std::size_t count = 0;
  for (const tokens& ids : sentences) count += ids.size();
  std::printf("%td layers of width %td, %td heads; read in %.2f s\n", m.sizes().num_hidden_layers,
              m.sizes().hidden_size, m.sizes().num_attention_heads, loaded - start);
  std::printf("%zu lines cut into %zu tokens in %.3f s, embedded in %.3f s with %td thread%s\n", lines.size(), count,
              cut - loaded, seconds, s.threads, s.threads == 1 ? "" : "s");
  std::printf("%.0f sentences/s, %.0f tokens/s, %.1f %% of the time in attention\n",
              static_cast<double>(lines.size()) / seconds, static_cast<double>(count) / seconds,
              all > 0 ? 100 * attention / all : 0);
  if (!s.save.empty()) {
    std::ofstream out(s.save, std::ios::binary);
    out.write(reinterpret_cast<const char*>(embeddings.data()), embeddings.size() * index_t{sizeof(float)});
    if (!out.flush()) throw std::runtime_error("cannot write " + s.save);
    return;
  }
  for (const std::string& query : s.file.empty() ? own_queries : s.queries)
    print_nearest(m, embeddings, lines, query, s.top);
  if (!s.file.empty() && s.queries.empty())
    for (std::string query; std::getline(std::cin, query);) print_nearest(m, embeddings, lines, query, s.top);
}

}  // namespace

int main(int count, char** arguments) try {
  run(parse(std::vector<std::string>(arguments + 1, arguments + count)));
  return 0;
} catch (const usage_error& error) {
  std::fprintf(stderr, "sentence_encoder: %s\n", error.what());
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "sentence_encoder: %s\n", error.what());
  return 1;
}
