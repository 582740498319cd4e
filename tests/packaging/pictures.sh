# SPDX-License-Identifier: BSD-3-Clause
# The pictures of docs/masks.md are what docs/draw_masks.cpp draws today.

rm -rf drawn
mkdir drawn
# shellcheck disable=SC2086
"$CXX" -std=c++20 -O1 -I "$SOURCE/include" $THIRD_PARTY "$SOURCE/docs/draw_masks.cpp" -o draw_masks
./draw_masks drawn > draw.log
diff -r drawn "$SOURCE/docs/masks"
