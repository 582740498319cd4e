// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Reads safetensors files: 8 bytes with the length of a JSON header, the header, then the numbers of all tensors. The
// header says of each tensor its type, its shape, and where its numbers begin and end. Nothing in it is trusted: the
// tensors must fill the rest of the file, one after the other, and each must be as long as its type and shape say.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <istream>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace minilm {

// Returns a JSON value as messages show it. Arrays and objects are only named: printing them recurses as deep as they
// nest, and a file may nest them deeper than the stack.
inline std::string shown(const nlohmann::json& value) {
  if (value.is_structured()) return std::string("an ") + value.type_name();
  return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

// Every message of this class begins with the name of the file.
class safetensors {
 public:
  struct tensor {
    std::string type;  // "F32", ...
    std::vector<std::uint64_t> shape;
    std::uint64_t begin, end;  // bytes after the header
  };

  // Reads and checks the header. The stream must live as long as this.
  safetensors(std::istream& file, std::string name) : file_(file), name_(std::move(name)) {
    const std::uint64_t size = size_of_file();
    if (size < 8) fail("has " + std::to_string(size) + " bytes, and the length of the header takes 8");
    std::array<char, 8> length_bytes;
    read(0, length_bytes.data(), 8);
    const auto length = std::bit_cast<std::uint64_t>(length_bytes);
    if (length > size - 8)
      fail("is cut short: its header takes " + std::to_string(length) + " bytes, and " + std::to_string(size - 8) +
           " are left");
    if (length > max_header)
      fail("has a header of " + std::to_string(length) + " bytes, more than " + std::to_string(max_header));
    std::string header(static_cast<std::size_t>(length), ' ');
    read(8, header.data(), length);
    data_ = 8 + length;
    try {
      parse(nlohmann::json::parse(header));
    } catch (const nlohmann::json::exception& error) {
      fail(std::string("has a header that is no JSON: ") + error.what());
    }
    check_places(size - data_);
  }

  const std::map<std::string, tensor>& tensors() const { return tensors_; }

  // Reads the floats of a tensor of type F32 and this shape to `to`, which has room for them once `make_room` returns:
  // no memory is taken before the file is known to hold as many numbers.
  template <class MakeRoom>
  void read_floats(const std::string& tensor_name, std::initializer_list<std::uint64_t> shape, MakeRoom make_room) {
    const auto found = tensors_.find(tensor_name);
    if (found == tensors_.end()) fail("has no tensor " + tensor_name);
    const tensor& t = found->second;
    if (t.type != "F32") fail("has " + tensor_name + " as " + t.type + ", and this program reads F32");
    if (!std::equal(shape.begin(), shape.end(), t.shape.begin(), t.shape.end()))
      fail("has " + tensor_name + " as " + text(t.shape) + ", and the configuration asks for " + text(shape));
    float* const to = make_room();
    read(data_ + t.begin, reinterpret_cast<char*>(to), t.end - t.begin);
  }

 private:
  static_assert(std::endian::native == std::endian::little, "the file is little-endian, and is read as it is");
  static constexpr std::uint64_t max_header = 16 << 20;

  [[noreturn]] void fail(const std::string& what) const { throw std::runtime_error(name_ + " " + what); }

  template <class Numbers> static std::string text(const Numbers& numbers) {
    std::string all;
    for (const auto number : numbers) all += (all.empty() ? "" : ", ") + std::to_string(number);
    return "(" + all + ")";
  }

  std::uint64_t size_of_file() {
    file_.seekg(0, std::ios::end);
    const auto size = static_cast<std::streamoff>(file_.tellg());
    if (!file_ || size < 0) fail("cannot be read");
    return static_cast<std::uint64_t>(size);
  }

  void read(std::uint64_t place, char* to, std::uint64_t count) {
    file_.seekg(static_cast<std::streamoff>(place));
    file_.read(to, static_cast<std::streamsize>(count));
    if (!file_)
      fail("ends at byte " + std::to_string(place + static_cast<std::uint64_t>(file_.gcount())) + ", and bytes up to " +
           std::to_string(place + count) + " are needed");
  }

  // Returns a number that is whole, not negative, and below 2^63, so that it fits std::streamoff.
  std::uint64_t whole(const nlohmann::json& number, const std::string& of) const {
    if (!number.is_number_unsigned() || number.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
      fail("has " + shown(number) + " in " + of + ", which is no size");
    return number.get<std::uint64_t>();
  }

  void parse(const nlohmann::json& header) {
    if (!header.is_object()) fail("has a header that is no JSON object");
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") continue;
      if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() || !value.contains("shape") ||
          !value["shape"].is_array() || !value.contains("data_offsets") || !value["data_offsets"].is_array() ||
          value["data_offsets"].size() != 2)
        fail("says of " + key + " not its dtype, its shape and two data_offsets");
      tensor t{value["dtype"].get<std::string>(), {}, 0, 0};
      t.begin = whole(value["data_offsets"][0], key), t.end = whole(value["data_offsets"][1], key);
      std::uint64_t bytes = bytes_of_type(t.type, key);
      bool overflow = false;
      for (const auto& number : value["shape"]) {
        const std::uint64_t extent = t.shape.emplace_back(whole(number, key));
        overflow = overflow || (extent != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / extent);
        bytes *= extent;
      }
      if (overflow) fail("has " + key + " as " + text(t.shape) + ", more bytes than 64 bits count");
      if (t.end < t.begin || t.end - t.begin != bytes)
        fail("places " + key + " in bytes " + std::to_string(t.begin) + " to " + std::to_string(t.end) + ", and its " +
             t.type + " " + text(t.shape) + " takes " + std::to_string(bytes));
      tensors_.emplace(key, std::move(t));
    }
  }

  std::uint64_t bytes_of_type(const std::string& type, const std::string& of) const {
    static const std::map<std::string, std::uint64_t> bytes = {
        {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
        {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8}};
    const auto found = bytes.find(type);
    if (found == bytes.end()) fail("has " + of + " as " + type + ", an unknown type");
    return found->second;
  }

  // Checks that the tensors fill the bytes after the header without a gap or an overlap.
  void check_places(std::uint64_t size) const {
    std::vector<std::pair<const std::string*, const tensor*>> in_order;
    for (const auto& [key, t] : tensors_) in_order.emplace_back(&key, &t);
    std::sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
    });
    std::uint64_t end = 0;
    for (const auto& [key, t] : in_order) {
      if (t->begin != end)
        fail("places " + *key + " at byte " + std::to_string(t->begin) + ", and the tensor before it ends at " +
             std::to_string(end));
      end = t->end;
    }
    if (end != size)
      fail("has " + std::to_string(size) + " bytes after its header, and its tensors take " + std::to_string(end));
  }

  std::istream& file_;
  std::string name_;
  std::uint64_t data_ = 0;  // where the header ends
  std::map<std::string, tensor> tensors_;
};

}  // namespace minilm
