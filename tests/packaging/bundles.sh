# SPDX-License-Identifier: BSD-3-Clause
# Each bundle of cmake/bundle.py compiles alone, one runs, and two go into one translation unit.

source "$SOURCE/tests/packaging/common.bash"
command -v python3 > /dev/null || skip "python3 is not installed"

rm -rf "the bundles"
python3 "$SOURCE/cmake/bundle.py" "the bundles" > bundles.log
for header in "$SOURCE"/include/heed/*.hpp; do
  name=heed_$(basename "$header")
  if [[ $name == heed_heed.hpp ]]; then name=heed.hpp; fi
  [[ -f the\ bundles/$name ]] || { echo "no bundle of $header"; exit 1; }
done
if grep -nE '^ *# *include *[<"]heed' the\ bundles/*.hpp; then
  echo "a bundle includes another file of heed"
  exit 1
fi

compile() { "$compiler" -x c++ - $strict -I "the bundles" $THIRD_PARTY "$@"; }   # what stdin says
for compiler in "${compilers[@]}"; do
  standards=(c++20 "c++2b $bare")
  for bundle in "the bundles"/*.hpp; do
    name=$(basename "$bundle")
    echo "#include \"$name\"" | compile -std=${standards[0]} -fsyntax-only || { echo "$compiler: $name"; exit 1; }
    standards=("${standards[1]}" "${standards[0]}")  # takes turns
  done
  printf '#include "%s"\n' heed_linear.hpp heed_softmax.hpp heed.hpp heed_linear.hpp | compile -std=c++20 -fsyntax-only
  "$compiler" -std=c++20 $strict -DHEED_BUNDLE='"heed_softmax.hpp"' -I "the bundles" $THIRD_PARTY \
    "$SOURCE/tests/packaging/consumer/merge.cpp" -o merge
  ./merge
done
cat bundles.log
