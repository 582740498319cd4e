// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// The command line of the chat program.

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

namespace chat {

inline constexpr const char* usage =
    "A language model that answers, with the attention of heed.\n"
    "  --prompt TEXT      answer this and end; without it, answer the lines of the standard input\n"
    "  --file PATH        the model: a GGUF file of the Llama architecture\n"
    "  --cache TYPE       keys and values are kept as f32, bf16, f16 or int8 (bf16)\n"
    "  --weights TYPE     the weights are kept as bf16 or f32 (bf16)\n"
    "  --threads N        1 to 256 (all of this machine)\n"
    "  --max-tokens N     the longest answer (256)\n"
    "  --temperature X    0: always the likeliest token; 1: as the model was trained (0.2)\n"
    "  --seed N           of the random choices, where the temperature is not 0 (1)\n"
    "  --help             this text\n";

struct options {
  std::optional<std::string> prompt;
  std::string file, cache = "bf16", weights = "bf16";
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int max_tokens = 256;
  double temperature = 0.2;
  std::uint64_t seed = 1;
  bool help = false;
};

struct usage_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Reads a number that is the whole text and within the bounds.
template <class T> T number_of(std::string_view option, std::string_view text, T least, T most) {
  T x{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (problem != std::errc() || end != text.data() + text.size() || !(x >= least && x <= most)) {
    std::ostringstream range;
    range << least << " to " << most;
    throw usage_error(std::string(option) + " is " + std::string(text) + ", must be a number, " + range.str());
  }
  return x;
}

inline options read_options(int argc, const char* const* argv) {
  options o;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    const auto text = [&]() -> std::string {
      if (i + 1 >= argc) throw usage_error(std::string(option) + " needs a value");
      return argv[++i];
    };
    const auto one_of = [&](std::initializer_list<std::string_view> names) {
      const std::string x = text();
      std::string list;
      for (const auto name : names) {
        if (x == name) return x;
        list += (list.empty() ? "" : ", ") + std::string(name);
      }
      throw usage_error(std::string(option) + " is " + x + ", must be one of " + list);
    };
    if (option == "--help")
      o.help = true;
    else if (option == "--prompt")
      o.prompt = text();
    else if (option == "--file")
      o.file = text();
    else if (option == "--cache")
      o.cache = one_of({"f32", "bf16", "f16", "int8"});
    else if (option == "--weights")
      o.weights = one_of({"bf16", "f32"});
    else if (option == "--threads")
      o.threads = number_of<int>(option, text(), 1, 256);
    else if (option == "--max-tokens")
      o.max_tokens = number_of<int>(option, text(), 1, 1 << 20);
    else if (option == "--temperature")
      o.temperature = number_of<double>(option, text(), 0, 100);
    else if (option == "--seed")
      o.seed = number_of<std::uint64_t>(option, text(), 0, std::numeric_limits<std::uint64_t>::max());
    else
      throw usage_error("there is no option " + std::string(option));
  }
  if (!o.help && o.file.empty()) throw usage_error("--file is missing; ./run chat downloads a model and names it");
  return o;
}

}  // namespace chat
