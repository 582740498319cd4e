# SPDX-License-Identifier: BSD-3-Clause
# The examples compile where `cmake --install` puts them, away from this tree, with the installed headers and no flag.
# They include public headers only, and Eigen and nlohmann_json only where they say so. The pages are installed beside
# them.

source "$SOURCE/tests/packaging/common.bash"

# A plain installation has them; so has one of documents alone, and that has nothing else.
install "a prefix"
rm -rf documents
"$CMAKE" --install "$BUILD" --component doc --prefix "$PWD/documents" > install.log
for folder in docs examples; do
  diff -r -x CMakeLists.txt "$SOURCE/$folder" "a prefix/share/doc/heed/$folder"
  diff -r -x CMakeLists.txt "$SOURCE/$folder" "documents/share/doc/heed/$folder"
done
for page in README.md CHANGELOG.md; do diff "$SOURCE/$page" "a prefix/share/doc/heed/$page"; done
if [[ $(find documents -type f ! -path '*/share/doc/heed/*') ]]; then
  echo "--component doc installs more than documents"
  exit 1
fi

export headers="$PWD/a prefix/include"
cd "a prefix/share/doc/heed/examples"

if grep -rnE '#include [<"]heed/[^"/>]+/' . | grep -vE 'heed/(reference|interop)/'; then
  echo "an example includes a header that is not public"
  exit 1
fi

check() {
  local used
  used=$($CXX -std=c++20 -fsyntax-only -Wall -Wextra -MD -MF "$1.d" -I "$headers" $THIRD_PARTY "$1" 2>&1) ||
    { echo "does not compile alone: $1"; echo "$used"; return 1; }
  local files=("$1")
  if [[ $1 == */* ]]; then files+=("${1%/*}"/*.hpp); fi  # a program in a folder of its own may say so in its headers
  if grep -q '/Eigen/' "$1.d" && ! grep -qE '#include [<"](Eigen/|heed/reference/)' "${files[@]}"; then
    echo "$1 reads Eigen and does not say so"
    return 1
  fi
  if grep -q '/nlohmann/' "$1.d" && ! grep -q '#include <nlohmann/' "$1"; then
    echo "$1 reads nlohmann_json and does not say so"
    return 1
  fi
}
export -f check
printf '%s\0' *.cpp */*.cpp | xargs -0 -P "$(nproc)" -I {} bash -c 'check {}'
