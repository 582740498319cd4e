# SPDX-License-Identifier: BSD-3-Clause
# The vcpkg port makes a package that find_package finds. vcpkg.cmake stands for vcpkg's functions.

source "$SOURCE/tests/packaging/common.bash"

"$CMAKE" -DSOURCE="$SOURCE" -DFOLDER="$PWD/a vcpkg" -DPREFIXES="$PREFIXES" -DCOMPILER="$CXX" \
  -P "$SOURCE/tests/packaging/vcpkg.cmake"
for compiler in "${compilers[@]}"; do
  use "$(basename "$compiler") port" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="$strict $bare" \
    -DCMAKE_PREFIX_PATH="$PWD/a vcpkg/packages/heed;$PREFIXES"
done
