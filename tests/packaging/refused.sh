# SPDX-License-Identifier: BSD-3-Clause
# Each refused/*.cpp compiles as it stands. It must not compile with REFUSED defined and the flags of its line
# "// flags:"; an error line must hold the text of its line "// says:", so that it is refused for the right reason. Of
# several such lines line n is what it says with REFUSED=n; the headers of such a file are compiled once.

failed=0
compile_to() { $CXX -std=c++20 -I "$SOURCE/include" $THIRD_PARTY "${@:2}" -o "$1"; }
compile() { compile_to /dev/null -fsyntax-only "$@"; }
for file in "$SOURCE"/tests/packaging/refused/*.cpp; do
  name=$(basename "$file" .cpp)
  flags=$(sed -n 's|^// flags: ||p' "$file")
  if ! compile "$file" > allowed.log 2>&1; then
    echo "$name: does not compile without REFUSED either"; cat allowed.log; failed=1
    continue
  fi
  number=0
  precompiled=()
  if (($(grep -c '^// says: ' "$file") > 1)); then
    grep '^#include ' "$file" > included.hpp
    compile_to included.hpp.gch $flags -x c++-header included.hpp
    precompiled=(-include included.hpp)
  fi
  while read -r says; do
    number=$((number + 1))
    if compile -DREFUSED=$number $flags "${precompiled[@]}" "$file" > refused.log 2>&1; then
      echo "$name $number: compiles, and should not"; failed=1
    elif ! grep "error:" refused.log | grep -qF -- "$says"; then
      echo "$name $number: refused, but without the words: $says"; cat refused.log; failed=1
    else
      echo "$name $number: refused"
    fi
  done < <(sed -n 's|^// says: ||p' "$file")
done
exit $failed
