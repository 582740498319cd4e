// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Reads a GGUF file: metadata (names with values) and tensors (names with shapes, types and bytes). The file is mapped,
// not copied. Every count, size and offset in it is checked before it is used, so a damaged or hostile file gives an
// error that says what is wrong. Little-endian files of versions 2 and 3.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace chat {

static_assert(std::endian::native == std::endian::little, "the numbers of a file are used as they are");

struct file_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string to_text(std::uint64_t number) { return std::to_string(number); }

// Returns a name of the file in quotes, fit to be printed: at most 60 characters, and no control characters.
inline std::string in_quotes(std::string_view name) {
  std::string text = "'";
  for (const char c : name.substr(0, 60)) text += c >= ' ' && c <= '~' ? c : '?';
  return text + (name.size() > 60 ? "...'" : "'");
}

enum class tensor_type : std::uint32_t { f32 = 0, f16 = 1, q4_1 = 3, q8_0 = 8, bf16 = 30 };

// A type stores `numbers` numbers in a block of `bytes` bytes.
struct block_size {
  std::uint64_t numbers, bytes;
};

// Returns the block of a type; {0, 0} for a type that this reader does not know.
inline block_size block_of(tensor_type type) {
  switch (type) {
    case tensor_type::f32:
      return {1, 4};
    case tensor_type::f16:
    case tensor_type::bf16:
      return {1, 2};
    case tensor_type::q4_1:
      return {32, 20};
    case tensor_type::q8_0:
      return {32, 34};
  }
  return {0, 0};
}

// shape[0] is the axis whose numbers are neighbours, as in the file: a matrix of `rows` rows has {columns, rows}.
struct tensor {
  std::string_view name;
  std::vector<std::uint64_t> shape;
  tensor_type type = tensor_type::f32;
  std::span<const std::byte> bytes;

  std::uint64_t count() const { return bytes.size() / block_of(type).bytes * block_of(type).numbers; }
};

// An array of the metadata that does not hold strings: `count` numbers of a type, as bytes.
struct number_array {
  std::uint32_t type;
  std::span<const std::byte> bytes;
};
using value = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, number_array,
                           std::vector<std::string_view>>;

// Reads numbers and strings from the front of a range of bytes, never beyond its end.
class byte_reader {
 public:
  explicit byte_reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t left() const { return bytes_.size() - position_; }

  // Takes `count` bytes. `what` names them in the error.
  std::span<const std::byte> take(std::uint64_t count, const char* what) {
    if (count > left())
      throw file_error(std::string(what) + " at byte " + to_text(position_) + " needs " + to_text(count) +
                       " bytes, the file has " + to_text(left()) + " left");
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }
  template <class T> T number(const char* what) {
    T x;
    std::memcpy(&x, take(sizeof(T), what).data(), sizeof(T));
    return x;
  }
  // Takes a count of items that need at least `bytes_each` bytes each, so that nobody reserves memory for more than the
  // file can hold.
  std::uint64_t count(std::uint64_t bytes_each, const char* what) {
    const auto n = number<std::uint64_t>(what);
    if (n > left() / bytes_each)
      throw file_error(std::string(what) + " is " + to_text(n) + ", the " + to_text(left()) +
                       " bytes behind it hold at most " + to_text(left() / bytes_each));
    return n;
  }
  std::string_view string(const char* what) {
    const auto bytes = take(count(1, what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
};

// Maps a file into memory for reading. If another program shortens the file meanwhile, the system ends this one.
class mapped_file {
 public:
  explicit mapped_file(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // does not wait for the writer of a pipe
    if (file < 0) throw file_error(std::strerror(errno));
    struct stat about;
    const char* problem = nullptr;
    if (fstat(file, &about) != 0) {
      problem = std::strerror(errno);
    } else if (!S_ISREG(about.st_mode)) {
      problem = "is not a regular file";
    } else if (about.st_size == 0) {
      problem = "is empty";
    } else {
      size_ = static_cast<std::size_t>(about.st_size);
      data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
      if (data_ == MAP_FAILED) problem = std::strerror(errno);
    }
    close(file);
    if (problem != nullptr) throw file_error(problem);
  }
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  ~mapped_file() { munmap(data_, size_); }

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// The contents of a file. Everything in here views the bytes, which must live as long.
class gguf {
 public:
  // Throws file_error where the bytes are not a whole file that this reader knows.
  explicit gguf(std::span<const std::byte> bytes) {
    byte_reader in(bytes);
    if (std::memcmp(in.take(4, "the magic number").data(), "GGUF", 4) != 0)
      throw file_error("this is no GGUF file: it does not begin with the letters GGUF");
    if (const auto version = in.number<std::uint32_t>("the version"); version != 2 && version != 3)
      throw file_error("the version is " + to_text(version) + ", must be 2 or 3");
    const auto tensor_count = in.count(24, "the number of tensors");
    const auto value_count = in.count(13, "the number of metadata values");
    for (std::uint64_t i = 0; i < value_count; ++i) read_value(in);
    std::vector<std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < tensor_count; ++i) read_tensor(in, offsets);
    find_bytes(bytes, in.position(), offsets);
  }

  const std::vector<tensor>& tensors() const { return tensors_; }

  // Returns the tensor of that name, which must have that shape.
  const tensor& find(const std::string& name, const std::vector<std::uint64_t>& shape) const {
    const tensor* const found = find(name);
    if (found == nullptr) throw file_error("there is no tensor " + in_quotes(name));
    if (found->shape != shape)
      throw file_error("tensor " + in_quotes(name) + " has shape " + shape_text(found->shape) + ", must have " +
                       shape_text(shape));
    return *found;
  }
  const tensor* find(std::string_view name) const {
    const auto at = index_.find(name);
    return at == index_.end() ? nullptr : &tensors_[at->second];
  }

  // These return a value of the metadata. `get` returns null where there is none of that name and type.
  template <class T> const T* get(std::string_view name) const {
    const auto at = values_.find(name);
    return at == values_.end() ? nullptr : std::get_if<T>(&at->second);
  }
  bool has(std::string_view name) const { return values_.contains(name); }
  std::string_view string(std::string_view name) const { return need<std::string_view>(name, "a string"); }
  double real(std::string_view name) const { return need<double>(name, "a real number"); }
  std::uint64_t integer(std::string_view name, std::uint64_t least, std::uint64_t most) const {
    const auto x = need<std::uint64_t>(name, "an unsigned integer");
    if (x < least || x > most)
      throw file_error("metadata " + in_quotes(name) + " is " + to_text(x) + ", must be " + to_text(least) + " to " +
                       to_text(most));
    return x;
  }
  const std::vector<std::string_view>& strings(std::string_view name) const {
    return need<std::vector<std::string_view>>(name, "an array of strings");
  }
  std::vector<std::int32_t> integers(std::string_view name) const {
    const auto& array = need<number_array>(name, "an array of 32-bit integers");
    if (array.type != int32_type) throw file_error("metadata " + in_quotes(name) + " is no array of 32-bit integers");
    std::vector<std::int32_t> x(array.bytes.size() / sizeof(std::int32_t));
    if (!x.empty()) std::memcpy(x.data(), array.bytes.data(), array.bytes.size());
    return x;
  }

 private:
  static constexpr std::uint32_t int32_type = 5, bool_type = 7, string_type = 8, array_type = 9;

  // Bytes of a number of the metadata's types; 0 for strings, arrays and unknown types.
  static std::uint64_t size_of(std::uint32_t type) {
    constexpr std::uint64_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < std::size(sizes) ? sizes[type] : 0;
  }

  static std::string shape_text(const std::vector<std::uint64_t>& shape) {
    std::string text;
    for (const auto n : shape) text += (text.empty() ? "" : " x ") + to_text(n);
    return text;
  }

  template <class T> const T& need(std::string_view name, const char* kind) const {
    const T* const x = get<T>(name);
    if (x == nullptr)
      throw file_error("metadata " + in_quotes(name) + (has(name) ? " is not " : " is missing; it must be ") + kind);
    return *x;
  }

  void read_value(byte_reader& in) {
    const auto name = in.string("the length of a metadata name");
    const auto type = in.number<std::uint32_t>("the type of a metadata value");
    if (!values_.emplace(name, value_of(in, name, type)).second)
      throw file_error("metadata " + in_quotes(name) + " is there twice");
  }

  static value value_of(byte_reader& in, std::string_view name, std::uint32_t type) {
    constexpr const char* what = "a metadata value";
    switch (type) {
      case 0:
        return std::uint64_t{in.number<std::uint8_t>(what)};
      case 1:
        return std::int64_t{in.number<std::int8_t>(what)};
      case 2:
        return std::uint64_t{in.number<std::uint16_t>(what)};
      case 3:
        return std::int64_t{in.number<std::int16_t>(what)};
      case 4:
        return std::uint64_t{in.number<std::uint32_t>(what)};
      case int32_type:
        return std::int64_t{in.number<std::int32_t>(what)};
      case 6:
        return double{in.number<float>(what)};
      case bool_type:
        return in.number<std::uint8_t>(what) != 0;
      case string_type:
        return in.string("the length of a metadata string");
      case array_type:
        return array_of(in, name);
      case 10:
        return in.number<std::uint64_t>(what);
      case 11:
        return in.number<std::int64_t>(what);
      case 12:
        return in.number<double>(what);
      default:
        throw file_error("metadata " + in_quotes(name) + " has type " + to_text(type) + ", must be 0 to 12");
    }
  }

  static value array_of(byte_reader& in, std::string_view name) {
    const auto type = in.number<std::uint32_t>("the type of a metadata array");
    constexpr const char* what = "the length of a metadata array";
    if (type == string_type) {
      std::vector<std::string_view> strings(in.count(sizeof(std::uint64_t), what));
      for (auto& s : strings) s = in.string("the length of a metadata string");
      return strings;
    }
    const auto size = size_of(type);
    if (size == 0)
      throw file_error("metadata " + in_quotes(name) + " is an array of type " + to_text(type) +
                       ", must be of numbers (0 to 7, 10 to 12) or strings (8)");
    return number_array{type, in.take(in.count(size, what) * size, "a metadata array")};
  }

  void read_tensor(byte_reader& in, std::vector<std::uint64_t>& offsets) {
    tensor t;
    t.name = in.string("the length of a tensor name");
    const auto axes = in.number<std::uint32_t>("the number of axes of a tensor");
    if (axes < 1 || axes > 4)
      throw file_error("tensor " + in_quotes(t.name) + " has " + to_text(axes) + " axes, must have 1 to 4");
    for (std::uint32_t axis = 0; axis < axes; ++axis)
      t.shape.push_back(in.number<std::uint64_t>("the shape of a tensor"));
    t.type = static_cast<tensor_type>(in.number<std::uint32_t>("the type of a tensor"));
    offsets.push_back(in.number<std::uint64_t>("the offset of a tensor"));
    if (!index_.emplace(t.name, tensors_.size()).second)
      throw file_error("tensor " + in_quotes(t.name) + " is there twice");
    tensors_.push_back(std::move(t));
  }

  // Returns the bytes of a tensor, all of whose sizes come from the file.
  static std::uint64_t bytes_of(const tensor& t) {
    const auto block = block_of(t.type);
    if (block.numbers == 0)
      throw file_error("tensor " + in_quotes(t.name) + " has type " + to_text(static_cast<std::uint32_t>(t.type)) +
                       "; known are 0 (F32), 1 (F16), 3 (Q4_1), 8 (Q8_0) and 30 (BF16)");
    if (t.shape[0] % block.numbers != 0)
      throw file_error("tensor " + in_quotes(t.name) + " has rows of " + to_text(t.shape[0]) +
                       " numbers, its type has blocks of " + to_text(block.numbers));
    constexpr auto most = std::numeric_limits<std::uint64_t>::max() / 64;  // times bytes, it still fits
    std::uint64_t count = 1;
    for (const auto n : t.shape) {
      if (n == 0 || count > most / n)
        throw file_error("tensor " + in_quotes(t.name) + " has shape " + shape_text(t.shape) + ", must have 1 to " +
                         to_text(most) + " numbers");
      count *= n;
    }
    return count / block.numbers * block.bytes;
  }

  // Finds the bytes of all tensors, which follow each other, aligned, from the end of the header on.
  void find_bytes(std::span<const std::byte> bytes, std::uint64_t header, const std::vector<std::uint64_t>& offsets) {
    const std::uint64_t alignment =
        has("general.alignment") ? integer("general.alignment", 1, std::uint64_t{1} << 31) : 32;
    if (!std::has_single_bit(alignment))
      throw file_error("metadata 'general.alignment' is " + to_text(alignment) + ", must be a power of two");
    const auto round_up = [&](std::uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
    const std::uint64_t begin = round_up(header);
    std::uint64_t next = 0;  // at most the size of the file, rounded up
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      tensor& t = tensors_[i];
      const auto needed = bytes_of(t);
      if (offsets[i] != next)
        throw file_error("tensor " + in_quotes(t.name) + " has offset " + to_text(offsets[i]) + ", must have " +
                         to_text(next) + ", where the one before it ends");
      const auto left = bytes.size() - std::min<std::uint64_t>(bytes.size(), begin + next);
      if (needed > left)
        throw file_error("tensor " + in_quotes(t.name) + " needs " + to_text(needed) + " bytes, the file has " +
                         to_text(left) + " left");
      t.bytes = bytes.subspan(begin + next, needed);
      next = round_up(next + needed);
    }
  }

  std::map<std::string_view, value> values_;
  std::vector<tensor> tensors_;
  std::map<std::string_view, std::size_t> index_;
};

}  // namespace chat
