# SPDX-License-Identifier: BSD-3-Clause
# Every header compiles as the only include of a translation unit, without a warning. interop/ needs what it adapts.

check() {
  echo "#include \"$1\"" | $CXX -x c++ - -fsyntax-only -std=c++20 -I "$SOURCE/include" $THIRD_PARTY \
    -Wall -Wextra -Wconversion -Wshadow -Wpedantic -Werror || { echo "does not stand alone: $1"; return 1; }
}
export -f check

cd "$SOURCE/include"
find heed -name '*.hpp' ! -path '*/interop/*' -print0 | xargs -0 -P "$(nproc)" -I {} bash -c 'check {}'
