// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Other predictors of the next byte, to compare with: Witten-Bell counts, gzip and xz.

#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace next_byte {

// Returns the bits per byte of text[from ..], predicted by counts of the bytes that followed the last 0 .. order bytes:
// p_n(x) = (count(x) + kinds p_{n-1}(x)) / (total + kinds), with kinds the number of different bytes seen after that
// context and p_{-1} = 1/256 (Witten and Bell 1991). The counts are those of all bytes before, or, where it does not go
// on learning, of text[.. from].
inline double witten_bell(std::string_view text, std::size_t from, int order, bool goes_on = true) {
  struct counts {
    std::unordered_map<unsigned char, double> of;
    double total = 0;
  };
  std::unordered_map<std::uint64_t, counts> contexts;  // key: the last n <= 7 bytes and n
  double bits = 0;
  for (std::size_t t = 0; t < text.size(); ++t) {
    const auto byte = static_cast<unsigned char>(text[t]);
    double p = 1.0 / 256;
    std::uint64_t key = 0;
    for (int n = 0; n <= order && static_cast<std::size_t>(n) <= t; ++n) {
      if (n > 0) key = key << 8 | static_cast<unsigned char>(text[t - static_cast<std::size_t>(n)]);
      counts& seen = contexts[key << 3 | static_cast<std::uint64_t>(n)];
      const double kinds = static_cast<double>(seen.of.size());
      if (seen.total > 0) {
        const auto it = seen.of.find(byte);
        p = ((it == seen.of.end() ? 0 : it->second) + kinds * p) / (seen.total + kinds);
      }
      if (t < from || goes_on) ++seen.of[byte], ++seen.total;
    }
    if (t >= from) bits -= std::log2(p);
  }
  return bits / static_cast<double>(text.size() - from);
}

// Returns the bits per byte that `command` (gzip -9, xz -9) needs for text[from ..] after text[.. from]: the difference
// of two compressed sizes. Returns nothing where the command does not exist.
inline std::optional<double> compressor(const std::string& command, std::string_view text, std::size_t from) {
  const std::string program = command.substr(0, command.find(' '));
  if (std::system(("command -v " + program + " > /dev/null 2>&1").c_str()) != 0) return std::nullopt;
  const auto compressed_size = [&](std::string_view part) -> std::optional<double> {
    const char* folder = std::getenv("TMPDIR");
    std::string path = std::string(folder != nullptr ? folder : "/tmp") + "/next_byte_XXXXXX";
    const int file = mkstemp(path.data());
    if (file < 0) return std::nullopt;
    const bool written = write(file, part.data(), part.size()) == static_cast<ssize_t>(part.size());
    close(file);
    std::optional<double> size;
    if (std::FILE* pipe = written ? popen((command + " -c < '" + path + "' | wc -c").c_str(), "r") : nullptr) {
      double bytes = 0;
      if (std::fscanf(pipe, "%lf", &bytes) == 1 && bytes > 0) size = bytes;
      pclose(pipe);
    }
    unlink(path.c_str());
    return size;
  };
  const auto all = compressed_size(text), first = compressed_size(text.substr(0, from));
  if (!all || !first) return std::nullopt;
  return (*all - *first) * 8 / static_cast<double>(text.size() - from);
}

}  // namespace next_byte
