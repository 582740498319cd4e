# SPDX-License-Identifier: BSD-3-Clause
# Shared by the scripts that consume heed; they source it.

# What a strict project compiles with.
strict="-Wall -Wextra -Wconversion -Wsign-conversion -Wfloat-equal -Wshadow -Wpedantic -Werror"
bare="-fno-exceptions -fno-rtti"

# The compiler of the build, and clang++ where it is here too: scripts that use both are left out of clang's own build.
compilers=("$CXX")
if ! "$CXX" --version | grep -q clang && command -v clang++ > /dev/null; then compilers+=(clang++); fi

skip() {
  echo "SKIPPED: $1"
  exit 77
}

# install FOLDER: what `cmake --install` makes, moved afterwards, as a package is
install() {
  rm -rf "$1" installed
  "$CMAKE" --install "$BUILD" --prefix "$PWD/installed" > install.log
  mkdir -p "$(dirname "$1")"
  mv installed "$1"
}

# archive FILE: the sources as a release has them, in a folder heed-0.2.0
archive() {
  local files=(CMakeLists.txt LICENSE README.md CHANGELOG.md cmake include)
  if [[ -d $SOURCE/src ]]; then files+=(src); fi
  tar -C "$SOURCE" --transform "s|^|heed-0.2.0/|" -czf "$1" "${files[@]}"
}

# use FOLDER [CMAKE ARGS]: configures and builds consumer/ and runs its programs. -O0 is what no build type means.
use() {
  local folder=$1 program ran=
  shift
  rm -rf "$folder"
  { "$CMAKE" -S "$SOURCE/tests/packaging/consumer" -B "$folder" "$@" && "$CMAKE" --build "$folder"; } \
    > "$folder.log" 2>&1 || { cat "$folder.log"; return 1; }
  for program in merge native reference; do
    if [[ -x $folder/$program ]]; then
      "$folder/$program" || { echo "$folder: $program failed"; return 1; }
      ran+=" $program"
    fi
  done
  [[ $ran == *merge* ]] || { echo "$folder: nothing was built"; return 1; }
  echo "$folder:$ran"
}
