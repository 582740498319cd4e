// SPDX-License-Identifier: BSD-3-Clause
//
// Talks with a language model (./run chat --prompt "..."): reads a GGUF file, cuts text into tokens, runs the layers
// with Eigen and the attention with heed, and prints the answer as it comes, with what it took.
// g++ -std=c++20 -O2 -march=native -pthread -I include -I /usr/include/eigen3 examples/chat/main.cpp
#include "model.hpp"  // first, for the sake of g++ 12

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "chat_template.hpp"
#include "gguf.hpp"
#include "heed/interop/eigen_thread_pool.hpp"
#include "key_value_cache.hpp"
#include "options.hpp"
#include "sampler.hpp"
#include "tokenizer.hpp"

namespace {

using heed::index_t;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Tokens that were read or written, the time that took, and how much of it was attention
struct work {
  index_t tokens = 0;
  double seconds = 0, attention = 0;

  void print(const char* what) const {
    if (tokens == 0) return;
    std::fprintf(stderr, "%-8s %5td tokens in %6.2f s: %7.1f tokens/s, %4.1f %% of the time in attention\n", what,
                 tokens, seconds, static_cast<double>(tokens) / seconds, 100 * attention / seconds);
  }
};

template <class T> class conversation {
 public:
  conversation(const chat::model<T>& model, const chat::tokenizer& words, const chat::chat_template& form,
               const chat::options& options, index_t capacity, const heed::context& context)
      : model_(model),
        words_(words),
        form_(form),
        context_(context),
        max_tokens_(options.max_tokens),
        sampler_(options.temperature, options.seed),
        cache_(options.cache, model.sizes().layers, model.sizes().kv_heads, model.sizes().head_dim, capacity) {}

  // Prints the answer to a question, each token as soon as it is known. Returns whether there is room for more. Throws
  // std::length_error where the first question alone is too long.
  bool answer(std::string_view text) {
    const auto question = form_.question(text, cache_.length() == 0);
    if (cache_.length() > 0 && std::ssize(question) > cache_.capacity() - cache_.length()) return full();
    chat::matrix x = measured(prefill_, question);
    for (int i = 0; i < max_tokens_; ++i) {
      const auto last = x.row(x.rows() - 1);
      const double begin = now();
      const chat::token_id id = sampler_.choose(model_.scores({last.data(), as_size(last.size())}, context_));
      decode_.seconds += now() - begin;
      if (id == words_.end()) break;
      const auto bytes = words_.bytes_of(id);
      std::fwrite(bytes.data(), 1, bytes.size(), stdout);
      std::fflush(stdout);
      if (cache_.length() == cache_.capacity()) return full();
      x = measured(decode_, {&id, 1});
    }
    std::puts("");
    std::fflush(stdout);
    return true;
  }

  void print() const {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    prefill_.print("prefill");
    decode_.print("decode");
    std::fprintf(stderr, "memory   %.0f MB of weights, %.0f MB of cache for %td tokens, %.0f MB at most in all\n",
                 static_cast<double>(model_.bytes()) * 1e-6, static_cast<double>(cache_.bytes()) * 1e-6,
                 cache_.capacity(), static_cast<double>(used.ru_maxrss) * 1024e-6);
  }

 private:
  bool full() const {
    std::fprintf(stderr, "\nThe context is full: %td of %td tokens\n", cache_.length(), cache_.capacity());
    return false;
  }
  static std::size_t as_size(index_t n) { return static_cast<std::size_t>(n); }

  chat::matrix measured(work& kind, std::span<const chat::token_id> tokens) {
    const double begin = now(), attention = cache_.seconds();
    chat::matrix x = model_.read(tokens, cache_, context_);
    kind.tokens += std::ssize(tokens);
    kind.seconds += now() - begin;
    kind.attention += cache_.seconds() - attention;
    return x;
  }

  const chat::model<T>& model_;
  const chat::tokenizer& words_;
  const chat::chat_template& form_;
  heed::context context_;
  int max_tokens_;
  chat::sampler sampler_;
  chat::key_value_cache cache_;
  work prefill_, decode_;
};

template <class T> void talk(const chat::gguf& file, const chat::options& options) {
  const chat::tokenizer words(file);
  const chat::chat_template form(file, words);
  const chat::model<T> model(file);
  Eigen::ThreadPool pool(options.threads - 1);  // the calling thread works, too
  const heed::eigen_thread_pool_executor threads(pool, options.threads);
  const heed::context context{.executor = threads};

  index_t capacity = model.sizes().context;
  if (options.prompt) {
    const index_t needed = std::ssize(form.question(*options.prompt, true)) + options.max_tokens;
    capacity = std::min(capacity, needed);
  }
  conversation<T> conversation(model, words, form, options, capacity, context);
  if (options.prompt) {
    conversation.answer(*options.prompt);
  } else {
    std::string line;
    bool room = true;
    while (room && (std::fputs("> ", stderr), std::getline(std::cin, line))) room = conversation.answer(line);
  }
  conversation.print();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const chat::options options = chat::read_options(argc, argv);
    if (options.help) return std::fputs(chat::usage, stdout), 0;
    try {
      const chat::mapped_file bytes(options.file);
      const chat::gguf file(bytes.bytes());
      options.weights == "f32" ? talk<float>(file, options) : talk<heed::bf16_t>(file, options);
    } catch (const chat::file_error& problem) {
      return std::fprintf(stderr, "%s: %s\n", options.file.c_str(), problem.what()), 1;
    }
    return 0;
  } catch (const chat::usage_error& problem) {
    return std::fprintf(stderr, "%s\n\n%s", problem.what(), chat::usage), 2;
  } catch (const std::exception& problem) {
    return std::fprintf(stderr, "%s\n", problem.what()), 1;
  }
}
