# SPDX-License-Identifier: BSD-3-Clause
# The pictures of the docs are what their programs draw today, and so are the tables beside two of them.

# build FLAG SOURCE PROGRAM
build() {
  # shellcheck disable=SC2086
  "$CXX" -std=c++20 "$1" -I "$SOURCE/include" $THIRD_PARTY "$SOURCE/$2" -o "$3"
}
rm -rf drawn
mkdir drawn
build -O1 docs/draw_masks.cpp draw_masks
./draw_masks drawn > draw.log
diff -r drawn "$SOURCE/docs/masks"

build -O2 examples/in_context_regression.cpp in_context_regression
./in_context_regression in_context_regression.svg > table.log
diff in_context_regression.svg "$SOURCE/docs/kernels/in_context_regression.svg"
for row in context 'linear regression' softmax 'local linear' 'linear attention'; do
  line=$(grep "^$row" table.log)
  grep -qxF "$line" "$SOURCE/docs/kernels/local_linear.md" || { echo "not in local_linear.md: $line"; exit 1; }
done

build -O1 docs/draw_training.cpp draw_training
./draw_training "$SOURCE/docs/training.jsonl" training.svg > training.log
diff training.svg "$SOURCE/docs/training.svg"

rm -rf kernels
mkdir kernels
python3 "$SOURCE/docs/draw_kernels.py" kernels
diff -r kernels "$SOURCE/docs/kernels/pictures"

cp "$SOURCE"/docs/peers.{json,md} .
python3 "$SOURCE/bench/peers/report.py" peers.json > peers.log
for file in peers.svg peers_short.svg peers.md; do diff $file "$SOURCE/docs/$file"; done
