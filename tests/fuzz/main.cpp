// SPDX-License-Identifier: BSD-3-Clause

// The program of fuzz targets. With libFuzzer, HEED_FUZZ_VERB names the target; without, `program VERB FILES` replays
// inputs, of folders too.

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz/target.hpp"
#include "heed/core/types.hpp"
#ifdef HEED_DISPATCH
#include "heed/level.hpp"
#endif
#include "support/buffer.hpp"
#include "support/comparison.hpp"

namespace heed_test {

static const fuzz_target* find_target(const char* verb) {
  for (const fuzz_target* x = fuzz_targets; x->verb != nullptr; ++x)
    if (verb != nullptr && std::strcmp(x->verb, verb) == 0) return x;
  std::fprintf(stderr, "no fuzz target is named %s; there are\n", verb == nullptr ? "nothing" : verb);
  for (const fuzz_target* x = fuzz_targets; x->verb != nullptr; ++x) std::fprintf(stderr, "  %s\n", x->verb);
  std::exit(1);
}

// Every tensor ends where its memory does, so that a sanitizer sees what goes one byte too far. Weights that underflow
// in float make a NaN of an infinity, for which the reference has an infinity.
static void prepare() {
  verdict::kinds_differ = false;
  buffer<float>::guard = buffer<double>::guard = 0;
  buffer<heed::bf16_t>::guard = buffer<heed::f16_t>::guard = 0;
  buffer<std::int8_t>::guard = 0;
}

}  // namespace heed_test

using namespace heed_test;

#ifdef HEED_LIBFUZZER

// What costs more time than it finds: long stacks of every allocation, and memory that is kept from being used again
extern "C" const char* __asan_default_options() { return "malloc_context_size=1:quarantine_size_mb=4"; }

static const fuzz_target* chosen = nullptr;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  prepare(), chosen = find_target(std::getenv("HEED_FUZZ_VERB"));
  return 0;
}
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bytes in(data, size);
  chosen->run(in);
  return 0;
}

#else

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  prepare();
  const fuzz_target* const target = find_target(argc > 1 ? argv[1] : nullptr);
#ifdef HEED_DISPATCH
  if (const char* const level = std::getenv("HEED_LEVEL"); level != nullptr && std::strcmp(level, heed::level()) != 0)
    return std::printf("skipped: this machine has no %s\n", level), 77;
#endif
  std::vector<fs::path> files;
  for (int i = 2; i < argc; ++i) {
    if (!fs::is_directory(argv[i])) files.emplace_back(argv[i]);
    if (fs::is_directory(argv[i]))
      for (const auto& each : fs::directory_iterator(argv[i])) files.push_back(each.path());
  }
  for (const fs::path& file : files) {
    std::ifstream stream(file, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    std::printf("%s\n", file.filename().c_str()), std::fflush(stdout);
    bytes in(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    target->run(in);
  }
  if (files.empty()) return std::puts("no inputs"), 1;
  return std::printf("%zu inputs\n", files.size()), 0;
}

#endif
