// SPDX-License-Identifier: BSD-3-Clause
//
// Prints what check.py compares with other implementations. FILE is a GGUF file; the weights are float.
//   check FILE tokens               for each line of the standard input, its tokens
//   check FILE scores ID...         reads the tokens ID at once; writes the scores behind each, as float, to the output
//   check FILE greedy COUNT ID...   reads them, and decodes COUNT tokens, each time the likeliest
#include "model.hpp"  // first, for the sake of g++ 12

#include <cstdio>
#include <exception>
#include <iostream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "key_value_cache.hpp"
#include "options.hpp"
#include "sampler.hpp"
#include "tokenizer.hpp"

namespace {

void print(const std::vector<chat::token_id>& ids) {
  for (const auto id : ids) std::printf("%d ", id);
  std::puts("");
}

std::vector<float> scores_behind(const chat::model<float>& model, const chat::matrix& x, heed::index_t row) {
  return model.scores({x.row(row).data(), static_cast<std::size_t>(x.cols())}, {});
}

int run(std::span<char*> arguments) {
  if (arguments.size() < 3) throw std::invalid_argument("check FILE tokens|scores|greedy ...");
  const chat::mapped_file bytes(arguments[1]);
  const chat::gguf file(bytes.bytes());
  const chat::tokenizer words(file);
  const std::string what = arguments[2];
  if (what == "tokens") {
    for (std::string line; std::getline(std::cin, line);) print(words.encode_with_special(line));
    return 0;
  }
  const bool greedy = what == "greedy" && arguments.size() > 3;
  std::vector<chat::token_id> ids;
  for (const char* id : arguments.subspan(greedy ? 4 : 3))
    ids.push_back(chat::number_of<chat::token_id>("ID", id, 0, static_cast<chat::token_id>(words.size() - 1)));
  if ((!greedy && what != "scores") || ids.empty()) throw std::invalid_argument("check FILE tokens|scores|greedy ...");

  const chat::model<float> model(file);
  const auto& sizes = model.sizes();
  const int count = greedy ? chat::number_of<int>("COUNT", arguments[3], 0, 1 << 20) : 0;
  chat::key_value_cache cache("f32", sizes.layers, sizes.kv_heads, sizes.head_dim, std::ssize(ids) + count);
  chat::matrix x = model.read(ids, cache, {});
  if (!greedy) {
    for (heed::index_t i = 0; i < x.rows(); ++i) {
      const auto scores = scores_behind(model, x, i);
      std::fwrite(scores.data(), sizeof(float), scores.size(), stdout);
    }
    return 0;
  }
  chat::sampler sampler(0, 0);
  std::vector<chat::token_id> chosen;
  for (int i = 0; i < count; ++i) {
    chosen.push_back(sampler.choose(scores_behind(model, x, x.rows() - 1)));
    x = model.read({&chosen.back(), 1}, cache, {});
  }
  print(chosen);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv, static_cast<std::size_t>(argc)});
  } catch (const std::exception& problem) {
    return std::fprintf(stderr, "%s\n", problem.what()), 1;
  }
}
