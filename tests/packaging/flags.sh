# SPDX-License-Identifier: BSD-3-Clause
# heed under flags that let compilers rearrange sums gives right numbers; C++17 is refused with one error.

source=$SOURCE/tests/packaging/numbers.cpp
check() {
  echo "$*"
  $CXX -std=c++20 "$@" -I "$SOURCE/include" $THIRD_PARTY "$source" -o numbers && ./numbers
}
here() { [[ $(uname -m) == x86_64 ]] && grep -qw "$1" /proc/cpuinfo; }

brief=(-DSOFTMAX_ALONE -DFLOAT_ALONE)
fast=(-ffast-math -fno-finite-math-only)
check -O1 -march=native "${fast[@]}" -DFLOAT_ALONE
check -O1 "${fast[@]}" -DFLOAT_ALONE
if here avx2; then check -O1 -march=haswell "${fast[@]}" "${brief[@]}"; fi
check -O1 -funsafe-math-optimizations "${brief[@]}"
check -O1 -march=native -fassociative-math -fno-signed-zeros -fno-trapping-math "${brief[@]}"
check -Ofast -fno-finite-math-only "${brief[@]}"

# One error, and one for the file that does not exist, which stops the compiler.
headers="heed cache convert softmax slopes sparse_query linear lightning local_linear mixture_of_head reference/softmax"
for header in $headers; do
  said=$(echo "#include \"heed/$header.hpp\"" |
    $CXX -std=c++17 -x c++ - -fsyntax-only -I "$SOURCE/include" $THIRD_PARTY 2>&1) && { echo "C++17 compiles"; exit 1; }
  errors=$(grep -c ' error: ' <<< "$said")
  ((errors == 2)) || { echo "heed/$header.hpp: $errors errors"; head -20 <<< "$said"; exit 1; }
done
