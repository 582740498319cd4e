// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Reads tests/golden/*.safetensors: 8 bytes with the length of a JSON header, the header, the numbers, all
// little-endian. A tensor is named case/name, an entry of the metadata case/key.

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "heed/core/view.hpp"

namespace heed_test {

#ifndef HEED_GOLDEN_DIR
#define HEED_GOLDEN_DIR (std::filesystem::path(__FILE__).parent_path() / "../golden").string()
#endif

// Dense, row-major; as a view of a higher rank missing leading axes have extent 1.
template <class T> struct golden_tensor {
  std::vector<T> data;
  std::vector<heed::index_t> shape;

  template <int Rank> heed::tensor_view<T, Rank> view() { return shaped<T, Rank>(data.data()); }
  template <int Rank> heed::tensor_view<const T, Rank> cview() const { return shaped<const T, Rank>(data.data()); }

 private:
  template <class E, int Rank> heed::tensor_view<E, Rank> shaped(E* first) const {
    std::array<heed::index_t, Rank> sizes, strides;
    std::size_t from = shape.size();
    heed::index_t stride = 1;
    for (std::size_t axis = Rank; axis-- > 0;) {
      sizes[axis] = from > 0 ? shape[--from] : 1;
      strides[axis] = stride;
      stride *= sizes[axis];
    }
    return {first, sizes, strides};
  }
};

class golden_file {
 public:
  explicit golden_file(const std::string& family) {
    read(std::string(HEED_GOLDEN_DIR) + "/" + family + ".safetensors");
  }
  static golden_file at(const std::string& path) {
    golden_file x;
    x.read(path);
    return x;
  }

  const std::set<std::string>& cases() const { return cases_; }
  bool has(const std::string& name) const { return json_.contains(name); }

  std::string text(const std::string& key) const { return json_.at("__metadata__").at(key).get<std::string>(); }
  double number(const std::string& key, double missing = 0) const {
    return json_.at("__metadata__").contains(key) ? std::stod(text(key)) : missing;
  }
  std::vector<std::string> words(const std::string& key) const {
    std::istringstream in(text(key));
    return {std::istream_iterator<std::string>(in), {}};
  }

  // The numbers converted to T; booleans as std::uint8_t.
  template <class T> golden_tensor<T> tensor(const std::string& name) const {
    const auto& entry = json_.at(name);
    golden_tensor<T> x;
    x.shape = entry.at("shape").template get<std::vector<heed::index_t>>();
    const std::string type = entry.at("dtype").template get<std::string>();
    const auto& range = entry.at("data_offsets");
    const auto first = range.at(0).template get<std::size_t>(), last = range.at(1).template get<std::size_t>();
    if (type == "F32")
      append<float>(x.data, first, last);
    else if (type == "F64")
      append<double>(x.data, first, last);
    else if (type == "I32")
      append<std::int32_t>(x.data, first, last);
    else if (type == "BOOL")
      append<std::uint8_t>(x.data, first, last);
    else
      throw std::runtime_error(name + " has type " + type);
    return x;
  }

 private:
  golden_file() = default;

  void read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("no file " + path);
    const std::string all((std::istreambuf_iterator<char>(file)), {});
    std::uint64_t header = 0;
    std::memcpy(&header, all.data(), 8);
    json_ = nlohmann::json::parse(all.substr(8, header));
    numbers_ = all.substr(8 + header);
    for (const auto& [name, entry] : json_.items())
      if (name != "__metadata__") cases_.insert(name.substr(0, name.find('/')));
  }

  template <class Stored, class T> void append(std::vector<T>& to, std::size_t first, std::size_t last) const {
    for (std::size_t at = first; at < last; at += sizeof(Stored)) {
      Stored x;
      std::memcpy(&x, numbers_.data() + at, sizeof x);
      to.push_back(static_cast<T>(x));
    }
  }

  nlohmann::json json_;
  std::string numbers_;
  std::set<std::string> cases_;
};

}  // namespace heed_test
