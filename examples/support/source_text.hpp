// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Reads the text of the demonstration: a file, or the library's own headers one after the other.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace next_byte {

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Returns the headers of the source tree that built this program or of a folder above this one, else an empty text.
inline std::string read_headers() {
  namespace fs = std::filesystem;
  std::vector<fs::path> roots;
#ifdef HEED_SOURCE_DIR
  roots.emplace_back(HEED_SOURCE_DIR);
#endif
  for (fs::path at = fs::current_path();; at = at.parent_path()) {
    roots.push_back(at);
    if (at == at.root_path()) break;
  }
  for (const fs::path& root : roots) {
    if (!fs::exists(root / "include/heed/heed.hpp")) continue;
    std::vector<fs::path> headers;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / "include/heed"))
      if (entry.path().extension() == ".hpp") headers.push_back(entry.path());
    std::sort(headers.begin(), headers.end());
    std::string text;
    for (const fs::path& header : headers) text += read_file(header);
    return text;
  }
  return {};
}

}  // namespace next_byte
