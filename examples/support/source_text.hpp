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

// Returns the source tree that built this program, or one at or above the current folder, else an empty path.
inline std::filesystem::path source_tree() {
  namespace fs = std::filesystem;
  std::vector<fs::path> roots;
#ifdef HEED_SOURCE_DIR
  roots.emplace_back(HEED_SOURCE_DIR);
#endif
  for (fs::path at = fs::current_path();; at = at.parent_path()) {
    roots.push_back(at);
    if (at == at.root_path()) break;
  }
  for (const fs::path& root : roots)
    if (fs::exists(root / "include/heed/heed.hpp")) return root;
  return {};
}

// Returns all files below a folder whose names end in `extension`, in the order of their paths.
inline std::string read_folder(const std::filesystem::path& folder, const std::string& extension) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  if (fs::exists(folder))
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
      if (entry.path().extension() == extension) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) text += read_file(file);
  return text;
}

inline std::string read_headers() { return read_folder(source_tree() / "include/heed", ".hpp"); }

// Returns README, docs and headers.
inline std::string read_repository() {
  return read_file(source_tree() / "README.md") + read_folder(source_tree() / "docs", ".md") + read_headers();
}

}  // namespace next_byte
