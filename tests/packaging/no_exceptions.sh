# SPDX-License-Identifier: BSD-3-Clause
# heed without exceptions and RTTI: a failed check prints its text and ends the program.

$CXX -std=c++20 -O1 -fno-exceptions -fno-rtti -Wall -Wextra -Werror -I "$SOURCE/include" $THIRD_PARTY \
  "$SOURCE/tests/packaging/no_exceptions.cpp" -o program
./program
if ./program wrong 2> said.txt; then
  echo "a call with wrong shapes returned"
  exit 1
fi
cat said.txt
grep -q '7' said.txt && grep -q '8' said.txt || { echo "the text does not name both numbers"; exit 1; }
