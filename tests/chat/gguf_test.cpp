// SPDX-License-Identifier: BSD-3-Clause

// The reader of GGUF files in examples/chat: what it reads, and that no damaged file gets past it or crashes it.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../examples/chat/chat_template.hpp"
#include "../examples/chat/gguf.hpp"
#include "../examples/chat/tokenizer.hpp"
#include "chat/gguf_file.hpp"
#include "support/catch.hpp"

using namespace heed_test;

namespace {

gguf_file small_file() {
  gguf_file file;
  file.u32("count", 7)
      .f32("ratio", 0.5f)
      .text("name", "a name")
      .texts("words", {"one", "", "three"})
      .integers("numbers", {3, -1, 4});
  file.value("long", 10, byte_writer().number(std::uint64_t{1} << 40));
  file.value("signed", 11, byte_writer().number(std::int64_t{-5}));
  file.value("yes", 7, byte_writer().number(std::uint8_t{1}));
  file.floats("a", {3}, {1, 2, 3}).floats("b", {2, 2}, {4, 5, 6, 7});
  return file;
}

std::string problem_of(const std::vector<std::byte>& bytes) {
  return error_text([&] { const chat::gguf file(bytes); });
}

// Whether the bytes are refused with a text that has all of these words
bool refused(const std::vector<std::byte>& bytes, std::initializer_list<const char*> words) {
  const std::string problem = problem_of(bytes);
  UNSCOPED_INFO(problem);
  for (const char* word : words)
    if (problem.find(word) == std::string::npos) return false;
  return !problem.empty();
}

// A copy in memory of its own that ends where the bytes end, so that a sanitizer sees each step beyond
struct exact_copy {
  std::unique_ptr<std::byte[]> memory;
  std::size_t size;
  explicit exact_copy(const std::vector<std::byte>& bytes) : memory(new std::byte[bytes.size()]), size(bytes.size()) {
    std::copy(bytes.begin(), bytes.end(), memory.get());
  }
  std::span<const std::byte> bytes() const { return {memory.get(), size}; }
};

// A file of one tensor "t" with this shape, type and offset, and 64 bytes of data
std::vector<std::byte> with_tensor(const std::vector<std::uint64_t>& shape, std::uint32_t type,
                                   std::uint64_t offset = 0) {
  byte_writer out;
  out.raw("GGUF").number(std::uint32_t{3}).number(std::uint64_t{1}).number(std::uint64_t{0});
  out.string("t").number(static_cast<std::uint32_t>(shape.size()));
  for (const auto n : shape) out.number(n);
  out.number(type).number(offset);
  while (out.bytes.size() % 32 != 0) out.bytes.push_back({});
  out.bytes.resize(out.bytes.size() + 64);
  return out.bytes;
}

}  // namespace

TEST_CASE("a GGUF file is read") {
  const auto bytes = small_file().bytes();
  const chat::gguf file(bytes);
  CHECK(file.integer("count", 0, 10) == 7);
  CHECK(file.real("ratio") == 0.5);
  CHECK(file.string("name") == "a name");
  CHECK(file.strings("words") == std::vector<std::string_view>{"one", "", "three"});
  CHECK(file.integers("numbers") == std::vector<std::int32_t>{3, -1, 4});
  CHECK(file.integer("long", 0, ~std::uint64_t{0}) == std::uint64_t{1} << 40);
  REQUIRE(file.get<std::int64_t>("signed") != nullptr);
  CHECK(*file.get<std::int64_t>("signed") == -5);
  REQUIRE(file.get<bool>("yes") != nullptr);
  CHECK(*file.get<bool>("yes"));
  CHECK(file.tensors().size() == 2);
  const chat::tensor& b = file.find("b", {2, 2});
  CHECK(b.count() == 4);
  float x[4];
  REQUIRE(b.bytes.size() == sizeof(x));
  std::memcpy(x, b.bytes.data(), sizeof(x));
  CHECK(x[3] == 7);
  CHECK(error_text([&] { file.find("c", {2}); }) == "there is no tensor 'c'");
  CHECK(error_text([&] { file.find("b", {4}); }) == "tensor 'b' has shape 2 x 2, must have 4");
  CHECK(error_text([&] { file.string("count"); }) == "metadata 'count' is not a string");
  CHECK(error_text([&] { file.string("mane"); }) == "metadata 'mane' is missing; it must be a string");
  CHECK(error_text([&] { file.integer("count", 1, 6); }) == "metadata 'count' is 7, must be 1 to 6");
}

TEST_CASE("every truncated GGUF file is refused") {
  const auto bytes = small_file().bytes();
  CHECK(problem_of(bytes).empty());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    INFO(size << " of " << bytes.size() << " bytes");
    const exact_copy part({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
    CHECK_THROWS_AS(chat::gguf(part.bytes()), chat::file_error);
  }
}

TEST_CASE("a GGUF file with wrong numbers is refused, with the numbers") {
  constexpr std::uint64_t huge = std::uint64_t{1} << 63;
  const auto good = small_file().bytes();
  auto bytes = good;
  bytes[0] = std::byte{'g'};
  CHECK(refused(bytes, {"GGUF"}));
  bytes = good, bytes[4] = std::byte{1};
  CHECK(refused(bytes, {"version is 1", "2 or 3"}));
  for (const std::size_t at : {8u, 16u}) {  // the counts of tensors and of values
    bytes = good;
    std::memcpy(&bytes[at], &huge, sizeof(huge));
    CHECK(refused(bytes, {"number of", "9223372036854775808", "at most"}));
  }

  const auto with_value = [](std::uint32_t type, const byte_writer& x) {
    return gguf_file().value("v", type, x).floats("a", {1}, {1}).bytes();
  };
  const std::uint64_t most = ~std::uint64_t{0};
  CHECK(refused(with_value(13, {}), {"'v'", "type 13", "0 to 12"}));
  CHECK(refused(with_value(8, byte_writer().number(huge)), {"string", "9223372036854775808", "at most"}));
  CHECK(refused(with_value(8, byte_writer().number(std::uint64_t{1000}).raw("short")), {"string", "1000", "at most"}));
  CHECK(refused(with_value(9, byte_writer().number(std::uint32_t{8}).number(huge)), {"array", "9223372036854775808"}));
  CHECK(refused(with_value(9, byte_writer().number(std::uint32_t{5}).number(most)), {"array", "at most"}));
  CHECK(refused(with_value(9, byte_writer().number(std::uint32_t{9}).number(most)), {"'v'", "array of type 9"}));
  CHECK(refused(with_value(9, byte_writer().number(std::uint32_t{77}).number(most)), {"'v'", "array of type 77"}));
  CHECK(refused(gguf_file().u32("v", 1).u32("v", 2).bytes(), {"'v'", "twice"}));
  CHECK(refused(gguf_file().floats("a", {1}, {1}).floats("a", {1}, {1}).bytes(), {"'a'", "twice"}));

  for (const std::uint32_t alignment : {0u, 3u, 48u, 0xffffffffu})
    CHECK(refused(gguf_file().u32("general.alignment", alignment).floats("a", {1}, {1}).bytes(),
                  {"general.alignment", std::to_string(alignment).c_str(), "must be"}));
  CHECK(refused(gguf_file().u32("general.alignment", 1u << 31).floats("a", {1}, {1}).bytes(),
                {"'a'", "4 bytes", "0 left"}));
  gguf_file finer;
  finer.alignment = 1;
  CHECK(problem_of(finer.u32("general.alignment", 1).floats("a", {1}, {1}).floats("b", {1}, {1}).bytes()).empty());

  CHECK(problem_of(with_tensor({4, 4}, 0)).empty());
  CHECK(refused(with_tensor({4, 5}, 0), {"'t'", "80 bytes", "64 left"}));
  CHECK(refused(with_tensor({4, 4}, 0, 32), {"'t'", "offset 32", "must have 0"}));
  CHECK(refused(with_tensor({4, 4}, 0, huge), {"'t'", "offset 9223372036854775808", "must have 0"}));
  CHECK(refused(with_tensor({4, 4}, 2), {"'t'", "type 2", "known are"}));
  CHECK(refused(with_tensor({4, 4}, 0xffffffff), {"'t'", "type 4294967295", "known are"}));
  CHECK(refused(with_tensor({}, 0), {"'t'", "0 axes", "1 to 4"}));
  CHECK(refused(with_tensor({1, 1, 1, 1, 1}, 0), {"'t'", "5 axes", "1 to 4"}));
  CHECK(refused(with_tensor({0, 4}, 0), {"'t'", "shape 0 x 4", "must have 1"}));
  CHECK(refused(with_tensor({16, 1}, 3), {"'t'", "rows of 16", "blocks of 32"}));
  CHECK(refused(with_tensor({huge, 2}, 0), {"'t'", "9223372036854775808 x 2"}));
  CHECK(refused(with_tensor({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0), {"'t'", "4294967296 x 4294967296"}));
  CHECK(refused(with_tensor({std::uint64_t{1} << 31, 1 << 26}, 0), {"'t'", "576460752303423488 bytes", "64 left"}));
}

TEST_CASE("names of a file are printed without control characters") {
  CHECK(chat::in_quotes("a\x1b[2J\nb") == "'a?[2J?b'");
  CHECK(chat::in_quotes(std::string(100, 'x')).size() == 65);
}

TEST_CASE("a file that cannot be mapped is refused") {
  const auto folder = std::filesystem::temp_directory_path() / ("heed_chat_" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  CHECK_THROWS_AS(chat::mapped_file((folder / "none").string()), chat::file_error);
  CHECK(error_text([&] { const chat::mapped_file file(folder.string()); }) == "is not a regular file");
  const std::string path = (folder / "some").string();
  std::ofstream(path).close();
  CHECK(error_text([&] { const chat::mapped_file file(path); }) == "is empty");
  std::ofstream(path) << "GGUF";
  const chat::mapped_file file(path);
  CHECK(file.bytes().size() == 4);
  CHECK_THROWS_AS(chat::gguf(file.bytes()), chat::file_error);
  std::filesystem::remove_all(folder);
}

// 24000 files, each one a small file with one to eight bytes or numbers changed. What is accepted is read to its end.
TEST_CASE("no mutated GGUF file crashes the reader or the tokenizer") {
  gguf_file words = small_file();
  add_vocabulary(words);
  std::mt19937_64 random(18);
  int accepted = 0, refusals = 0;
  for (const auto& good : {small_file().bytes(), words.bytes()}) {
    for (int i = 0; i < 12000; ++i) {
      auto bytes = good;
      for (auto changes = 1 + random() % 8; changes > 0; --changes) {
        constexpr std::uint64_t odd[] = {0, 1, 255, 1u << 31, std::uint64_t{1} << 32, std::uint64_t{1} << 63, ~0ull};
        const std::size_t size = std::size_t{1} << random() % 4, at = random() % (bytes.size() - size);
        const std::uint64_t x = random() % 2 == 0 ? odd[random() % std::size(odd)] : random();
        std::memcpy(&bytes[at], &x, size);
      }
      const exact_copy copy(bytes);
      try {
        const chat::gguf file(copy.bytes());
        unsigned sum = 0;
        for (const auto& t : file.tensors())
          for (const auto byte : t.bytes) sum += std::to_integer<unsigned>(byte);
        CHECK(sum <= 255 * bytes.size());
        const chat::tokenizer tokens(file);
        const chat::chat_template form(file, tokens);
        for (const auto id : form.question("hello  12 <|im_end|> \xff\xc3", true)) tokens.bytes_of(id);
        ++accepted;
      } catch (const chat::file_error& problem) {
        if (*problem.what() == 0) FAIL("an error without a text");
        ++refusals;
      }
    }
  }
  CHECK(refusals > 1000);
  CHECK(accepted > 100);
}
