# SPDX-License-Identifier: BSD-3-Clause
# heed found as an installed package, used as a subdirectory, fetched, and through CPM's line; every path has a space.
# Not every way with every flag: each compiler meets each way once, and among the ways C++20 and C++23, strict warnings
# (where the headers are not system headers), and no exceptions and RTTI.

source "$SOURCE/tests/packaging/common.bash"

install "a prefix/heed"
if grep -rnF -e "$SOURCE" -e "$BUILD" -e "$PWD" "a prefix" --include='*.cmake' --include='*.pc'; then
  echo "the installed package names a folder of this machine"
  exit 1
fi
prefixes="$PWD/a prefix/heed;$PREFIXES"

rm -rf "a checkout"
mkdir "a checkout"
archive "a checkout/heed-0.2.0.tar.gz"
tar -C "a checkout" -xf "a checkout/heed-0.2.0.tar.gz"
checkout="$PWD/a checkout/heed-0.2.0"

use "a package" -DCMAKE_PREFIX_PATH="$prefixes" -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_CXX_FLAGS="$strict" \
  -DWITH_REFERENCE=ON
for compiler in "${compilers[@]}"; do
  name=$(basename "$compiler")
  with=(-DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$PREFIXES")
  use "$name package" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$prefixes" -DCMAKE_CXX_STANDARD=23 \
    -DCMAKE_CXX_FLAGS="$strict" -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON
  use "$name subdirectory" "${with[@]}" -DHEED_FROM=add_subdirectory -DHEED_FOLDER="$checkout" \
    -DCMAKE_CXX_FLAGS="$strict $bare"
  use "$name fetched" "${with[@]}" -DHEED_FROM=FetchContent -DHEED_ARCHIVE="$checkout.tar.gz" \
    -DCMAKE_CXX_STANDARD=23 -DCMAKE_CXX_FLAGS="$strict $bare"
  use "$name CPM" "${with[@]}" -DHEED_FROM=CPM -DHEED_FOLDER="$checkout" -DCMAKE_CXX_FLAGS="$strict" \
    -DHEED_CPM="${HEED_CPM:-$SOURCE/tests/packaging/consumer/CPM.cmake}"
done
