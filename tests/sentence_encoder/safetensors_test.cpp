// SPDX-License-Identifier: BSD-3-Clause

// The reader of examples/sentence_encoder: every file that is not sound is refused with a text, and none is believed.

#include <array>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "../examples/sentence_encoder/safetensors.hpp"
#include "support/catch.hpp"
#include "support/messages.hpp"
#include "support/safetensors_file.hpp"

using namespace heed_test;

namespace {

const std::string six_floats(24, '\x01');

std::string header_of(const std::string& entry) { return "{\"x\":" + entry + "}"; }
std::string entry(const std::string& type, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

// Opens a file and reads all that it has of one or two axes, as the encoder does; each tensor into an array of its own.
void read_all(const std::string& bytes) {
  std::istringstream stream(bytes);
  minilm::safetensors file(stream, "f");
  for (const auto& named : file.tensors()) {
    const std::string& name = named.first;
    const minilm::safetensors::tensor& t = named.second;
    std::vector<float> to;
    const auto room = [&] {
      to.resize(static_cast<std::size_t>(t.end - t.begin) / sizeof(float));
      return to.data();
    };
    if (t.shape.size() == 1) file.read_floats(name, {t.shape[0]}, room);
    if (t.shape.size() == 2) file.read_floats(name, {t.shape[0], t.shape[1]}, room);
  }
}

void refused(const std::string& bytes, const std::vector<std::string>& must) {
  const std::string text = text_thrown_by([&] { read_all(bytes); });
  CAPTURE(text);
  CHECK(text.starts_with("f "));
  const std::vector<std::string> said = words(text);
  for (const std::string& word : must) {
    CAPTURE(word);
    CHECK(std::find(said.begin(), said.end(), word) != said.end());
  }
}
void header_refused(const std::string& header, const std::vector<std::string>& must) {
  refused(safetensors_file(header, six_floats), must);
}

}  // namespace

TEST_CASE("a safetensors file gives its tensors back") {
  safetensors_writer writer;
  writer.add("b", "2, 3", {1, 2, 3, 4, 5, 6});
  writer.add("a", "2", {7, 8});
  writer.add("empty", "0", {});
  std::istringstream stream(writer.file());
  minilm::safetensors file(stream, "f");
  std::array<float, 6> b{};
  std::array<float, 2> a{};
  file.read_floats("b", {2, 3}, [&] { return b.data(); });
  file.read_floats("a", {2}, [&] { return a.data(); });
  CHECK(b == std::array<float, 6>{1, 2, 3, 4, 5, 6});
  CHECK(a == std::array<float, 2>{7, 8});
  CHECK(file.tensors().size() == 3);

  const auto never = []() -> float* { throw std::logic_error("no room must be made"); };
  CHECK(text_thrown_by([&] { file.read_floats("c", {2}, never); }) == "f has no tensor c");
  CHECK(text_thrown_by([&] { file.read_floats("b", {3, 2}, never); }) ==
        "f has b as (2, 3), and the configuration asks for (3, 2)");
  CHECK(text_thrown_by([&] { file.read_floats("b", {6}, never); }) ==
        "f has b as (2, 3), and the configuration asks for (6)");
}

TEST_CASE("a safetensors file that is cut short is refused, wherever the cut is") {
  safetensors_writer writer;
  writer.add("b", "2, 3", {1, 2, 3, 4, 5, 6});
  writer.add("a", "2", {7, 8});
  const std::string whole = writer.file();
  CHECK(text_thrown_by([&] { read_all(whole); }).empty());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK_FALSE(text_thrown_by([&] { read_all(whole.substr(0, length)); }).empty());
  }
  refused(whole.substr(0, 5), {"5", "8"});
  refused(whole.substr(0, 20), {std::to_string(whole.size() - 8 - 32), "12"});
  refused(whole.substr(0, whole.size() - 3), {"29", "32"});
  refused(whole + "xyz", {"35", "32"});
}

TEST_CASE("a safetensors header that lies is refused with both numbers") {
  for (const std::uint64_t length :
       {~std::uint64_t{0}, ~std::uint64_t{0} - 7, std::uint64_t{1} << 63, std::uint64_t{3}})
    refused(bytes_of(length) + "{}", {std::to_string(length), "2"});
  const std::uint64_t long_header = (std::uint64_t{16} << 20) + 1;
  refused(bytes_of(long_header) + std::string(long_header, ' '), {"16777217", "16777216"});

  header_refused(header_of(entry("F32", "[2,3]", "[0,20]")), {"x", "0", "20", "24"});
  header_refused(header_of(entry("F32", "[2,3]", "[24,0]")), {"x", "24", "0"});
  header_refused(header_of(entry("F32", "[2,3]", "[1,25]")), {"x", "1", "0"});
  header_refused(header_of(entry("F32", "[2,2]", "[0,16]")), {"24", "16"});
  header_refused(header_of(entry("F32", "[2,5]", "[0,40]")), {"24", "40"});
  header_refused(header_of(entry("F64", "[2,3]", "[0,24]")), {"F64", "24", "48"});
  header_refused(header_of(entry("F31", "[2,3]", "[0,24]")), {"x", "F31"});
  header_refused(header_of(entry("I32", "[2,3]", "[0,24]")), {"x", "I32", "F32"});
  // 2^62 floats are 2^64 bytes: 0 where the product wraps
  header_refused(header_of(entry("F32", "[4611686018427387904]", "[0,0]")), {"4611686018427387904", "64"});
  header_refused(header_of(entry("F32", "[2147483648,2147483648]", "[0,0]")), {"2147483648", "64"});
  header_refused(header_of(entry("F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]")), {"64"});
  header_refused(header_of(entry("F32", "[2,3]", "[18446744073709551592,18446744073709551616]")), {"x"});
  header_refused(header_of(entry("F32", "[2,3]", "[9223372036854775808,9223372036854775832]")), {"x"});
  // 0 - 24 wraps to the bytes of this shape
  header_refused(header_of(entry("F64", "[2305843009213693949]", "[24,0]")), {"F64", "24", "18446744073709551592"});
  for (const char* number : {"-1", "2.5", "1e300", "1e999", "null", "\"2\"", "[2]", "true", "18446744073709551615"}) {
    CAPTURE(number);
    header_refused(header_of(entry("F32", "[" + std::string(number) + ",3]", "[0,24]")), {});
    header_refused(header_of(entry("F32", "[2,3]", "[0," + std::string(number) + "]")), {});
  }

  const std::string half = entry("F32", "[3]", "[0,12]"), other = entry("F32", "[3]", "[12,24]");
  CHECK(text_thrown_by([&] {
          read_all(safetensors_file(R"({"a":)" + half + R"(,"b":)" + other + "}", six_floats));
        }).empty());
  header_refused(R"({"a":)" + half + R"(,"b":)" + half + "}", {"b", "0", "12"});
  header_refused(R"({"a":)" + half + R"(,"b":)" + entry("F32", "[3]", "[8,20]") + "}", {"b", "8", "12"});
  header_refused(R"({"a":)" + half + R"(,"b":)" + entry("F32", "[2]", "[16,24]") + "}", {"b", "16", "12"});
}

TEST_CASE("a safetensors header that is no header is refused") {
  for (const char* header : {"",
                             " ",
                             "{",
                             "[]",
                             "7",
                             "null",
                             "\"x\"",
                             "{\"x\"}",
                             "{\"x\":1}",
                             "{\"x\":{}}",
                             "{\"x\":[]}",
                             R"({"x":{"dtype":"F32"}})",
                             R"({"x":{"dtype":"F32","shape":[6]}})",
                             R"({"x":{"dtype":4,"shape":[6],"data_offsets":[0,24]}})",
                             R"({"x":{"dtype":"F32","shape":6,"data_offsets":[0,24]}})",
                             R"({"x":{"dtype":"F32","shape":[6],"data_offsets":24}})",
                             R"({"x":{"dtype":"F32","shape":[6],"data_offsets":[24]}})",
                             R"({"x":{"dtype":"F32","shape":[6],"data_offsets":[0,24,24]}})",
                             "{} {}",
                             "\xff\xfe{}",
                             "{\"\xff\":1}"}) {
    CAPTURE(header);
    header_refused(header, {});
  }
  header_refused(std::string(100000, '['), {});
  const std::string nested = std::string(1000000, '[') + std::string(1000000, ']');
  header_refused(header_of(nested), {"x"});
  header_refused(header_of(entry("F32", "[" + nested + "]", "[0,24]")), {"x", "array"});
  header_refused(header_of(entry("F32", "[6]", "[0," + nested + "]")), {"x", "array"});
  header_refused(header_of(entry("F32", "[{}]", "[0,24]")), {"x", "object"});
}

TEST_CASE("mutations of a safetensors file are read or refused") {
  safetensors_writer writer;
  writer.add("b", "2,3", {1, 2, 3, 4, 5, 6});
  writer.add("a", "2", {7, 8});
  writer.add("empty", "0", {});
  const std::string whole = writer.file(), header = whole.substr(8, whole.size() - 8 - 32);
  random_numbers random(18);
  int read = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {  // half of them with a length that fits the header
    const std::string bytes = i % 2 == 0 ? mutated(whole, random)
                                         : safetensors_file(mutated(header, random), whole.substr(whole.size() - 32));
    ++(text_thrown_by([&] { read_all(bytes); }).empty() ? read : refused);
  }
  CHECK(read > 100);
  CHECK(refused > 10000);
}
