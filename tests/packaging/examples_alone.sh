# SPDX-License-Identifier: BSD-3-Clause
# The examples compile in a folder of their own, away from this tree, with heed's headers and no flag: what a user who
# copies examples/ has. They include public headers only, and Eigen only where they say so.

rm -rf copy
cp -r "$SOURCE/examples" copy
cd copy

if grep -rnE '#include [<"]heed/[^"/>]+/' . | grep -vE 'heed/(reference|interop)/'; then
  echo "an example includes a header that is not public"
  exit 1
fi

check() {
  local used
  used=$($CXX -std=c++20 -fsyntax-only -Wall -Wextra -MD -MF "$1.d" -I "$SOURCE/include" $THIRD_PARTY "$1" 2>&1) ||
    { echo "does not compile alone: $1"; echo "$used"; return 1; }
  if grep -q '/Eigen/' "$1.d" && ! grep -qE '#include [<"](Eigen/|heed/reference/)' "$1"; then
    echo "$1 reads Eigen and does not say so"
    return 1
  fi
}
export -f check
printf '%s\0' *.cpp | xargs -0 -P "$(nproc)" -I {} bash -c 'check {}'
