// SPDX-License-Identifier: BSD-3-Clause

// The command line of examples/chat.

#include "../examples/chat/options.hpp"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "chat/gguf_file.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

chat::options read(std::initializer_list<const char*> arguments) {
  std::vector<const char*> all{"chat"};
  all.insert(all.end(), arguments);
  return chat::read_options(static_cast<int>(all.size()), all.data());
}

std::string problem(std::initializer_list<const char*> arguments) {
  return error_text([&] { read(arguments); });
}

}  // namespace

TEST_CASE("options are read") {
  const auto o = read({"--file", "a.gguf", "--prompt", "--help", "--cache", "int8", "--weights", "f32", "--threads",
                       "3", "--max-tokens", "5", "--temperature", "0.5", "--seed", "18446744073709551615"});
  CHECK(o.file == "a.gguf");
  CHECK(o.prompt == "--help");
  CHECK(!o.help);
  CHECK(o.cache == "int8");
  CHECK(o.weights == "f32");
  CHECK(o.threads == 3);
  CHECK(o.max_tokens == 5);
  CHECK(o.temperature == 0.5);
  CHECK(o.seed == ~std::uint64_t{0});
  CHECK(!read({"--file", "a"}).prompt);
  CHECK(read({"--file", "a", "--prompt", ""}).prompt == "");
  CHECK(read({"--file", "a", "--file", "b"}).file == "b");  // ./run chat names a file before those of the user
  CHECK(read({"--help"}).help);
}

TEST_CASE("options that make no sense are refused") {
  CHECK(problem({"--threads", "-1", "--file", "a"}) == "--threads is -1, must be a number, 1 to 256");
  CHECK(problem({"--max-tokens", "0", "--file", "a"}) == "--max-tokens is 0, must be a number, 1 to 1048576");
  for (const char* bad : {"nan", "-nan", "inf", "-1", "101", "1x", "", "1e999"})
    CHECK(problem({"--temperature", bad, "--file", "a"}) ==
          "--temperature is " + std::string(bad) + ", must be a number, 0 to 100");
  for (const char* bad : {"-1", "18446744073709551616", "0x1", "1.5"})
    CHECK(problem({"--seed", bad, "--file", "a"}) ==
          "--seed is " + std::string(bad) + ", must be a number, 0 to 18446744073709551615");
  CHECK(problem({"--cache", "int4", "--file", "a"}) == "--cache is int4, must be one of f32, bf16, f16, int8");
  CHECK(problem({"--file", "a", "--prompt"}) == "--prompt needs a value");
  CHECK(problem({"--colour"}) == "there is no option --colour");
  CHECK(problem({}) == "--file is missing; ./run chat downloads a model and names it");
}
