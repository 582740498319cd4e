# SPDX-License-Identifier: BSD-3-Clause
# What cannot be run here compiles: beside the macros of Windows' headers, and for 32 bits.

compile() {
  $CXX -std=c++20 -fsyntax-only -Wall -Wextra -Werror "$@" -I "$SOURCE/include" "$SOURCE/tests/packaging/portable.cpp"
}
for flags in "" -march=haswell -march=skylake-avx512; do
  compile $flags $THIRD_PARTY -DWINDOWS_MACROS
done

# The headers of the 64-bit system do for clang, but for one that is empty.
if ! $CXX --version | grep -q clang; then
  echo "SKIPPED: 32 bits are compiled for with clang alone"
  exit 0
fi
mkdir -p stubs/gnu
: > stubs/gnu/stubs-32.h
folders=(-isystem stubs)
while IFS= read -r folder; do folders+=(-isystem "$folder"); done < <(
  $CXX -E -x c++ - -v < /dev/null 2>&1 | sed -n '/^#include <...>/,/^End/s/^ //p' | grep -v '/lib/clang/')
compile -m32 -msse2 "${folders[@]}" $THIRD_PARTY
