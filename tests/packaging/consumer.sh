# SPDX-License-Identifier: BSD-3-Clause
# heed found as an installed package (with and without the reference) and used as a subdirectory.

use() {
  local folder=$1
  shift
  rm -rf "$folder"
  { "$CMAKE" -S "$SOURCE/tests/packaging/consumer" -B "$folder" -DCMAKE_CXX_COMPILER="$CXX" "$@" &&
    "$CMAKE" --build "$folder"; } > "$folder.log" 2>&1 || { cat "$folder.log"; return 1; }
  for program in plain native reference; do
    if [[ -x $folder/$program ]]; then
      "$folder/$program" || { echo "$folder: $program failed"; return 1; }
      echo "$folder: $program runs"
    fi
  done
}

rm -rf installed moved
"$CMAKE" --install "$BUILD" --prefix installed > install.log
mv installed moved   # no path of the build may stay in the package
if grep -rnF -e "$SOURCE" -e "$PWD" moved --include='*.cmake'; then
  echo "the installed package names a folder of this machine"
  exit 1
fi

prefixes="$PWD/moved;$PREFIXES"
use package -DCMAKE_PREFIX_PATH="$prefixes"
use without_eigen -DCMAKE_PREFIX_PATH="$prefixes" -DWITH_REFERENCE=OFF -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON
use subdirectory -DHEED_SUBDIRECTORY="$SOURCE" -DCMAKE_PREFIX_PATH="$PREFIXES"
