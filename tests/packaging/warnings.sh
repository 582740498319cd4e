# SPDX-License-Identifier: BSD-3-Clause
# A consumer that includes heed as its own code, with its own strict flags, at the levels that make GCC 12 warn out of
# AVX-512 intrinsics.

code=(-c -o consumer.o)   # GCC warns out of the code it makes as well, clang only out of what it reads
if $CXX --version | grep -q clang; then code=(-fsyntax-only); fi
for flags in "-O2 -march=native" "-O3 -march=haswell" "-O0 -DHEED_ASSERTIONS=1"; do
  echo "$flags"
  $CXX -std=c++20 $flags -Wall -Wextra -Wconversion -Wsign-conversion -Wfloat-equal -Wshadow -Wpedantic -Werror \
    -I "$SOURCE/include" $THIRD_PARTY "${code[@]}" "$SOURCE/tests/packaging/consumer/reference.cpp"
done
for flags in "" -march=skylake-avx512; do
  echo "every verb: $flags"
  $CXX -std=c++20 -fsyntax-only $flags -Wall -Wextra -Wconversion -Wsign-conversion -Wfloat-equal -Wshadow -Wpedantic \
    -Werror -I "$SOURCE/include" $THIRD_PARTY "$SOURCE/tests/packaging/every_verb.cpp"
done
