# SPDX-License-Identifier: BSD-3-Clause
# The recipe of packaging/conan makes a package out of an archive of this tree, and its own test_package builds and runs
# with it. Two things stand for what a registry has: the archive beside its checksum, and a recipe for xsimd.

source "$SOURCE/tests/packaging/common.bash"
conan=$(command -v conan || echo "$SOURCE/build/conan/bin/conan")
[[ -x $conan ]] || skip "conan is not installed (./run setup installs it)"

rm -rf "a recipe" "a home"
cp -r "$SOURCE/packaging/conan" "a recipe"
archive heed.tar.gz
sum=$(sha256sum heed.tar.gz | cut -d ' ' -f 1)
sed -i "s|^    url: .*|    url: \"file://$PWD/heed.tar.gz\"|; s|^    sha256: .*|    sha256: \"$sum\"|" \
  "a recipe/all/conandata.yml"

export CONAN_HOME="$PWD/a home"
XSIMD_FOLDER=$(echo '#include <xsimd/xsimd.hpp>' | $CXX -std=c++20 -x c++ -M - $THIRD_PARTY |
  grep -o '[^ ]*/xsimd/xsimd.hpp' | head -1)
XSIMD_FOLDER=$(dirname "$(dirname "$XSIMD_FOLDER")")
export XSIMD_FOLDER

version=$(sed -n 's/^  "\(.*\)":$/\1/p' "a recipe/config.yml")
"$conan" remote disable '*' > /dev/null  # nothing may come from a network
"$conan" export "$SOURCE/tests/packaging/conan_xsimd" --version 14.0.0 > xsimd.log 2>&1 ||
  { cat xsimd.log; exit 1; }
for compiler in "${compilers[@]}"; do
  kind=gcc
  if "$compiler" --version | grep -q clang; then kind=clang; fi
  cat > profile <<PROFILE
[settings]
os=Linux
arch=$(uname -m)
compiler=$kind
compiler.version=$("$compiler" -dumpversion | cut -d . -f 1)
compiler.libcxx=libstdc++11
compiler.cppstd=20
build_type=Debug
[conf]
tools.build:compiler_executables={"cpp": "$(command -v "$compiler")"}
tools.build:cxxflags=["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
PROFILE
  "$conan" create "a recipe/all" --version "$version" -pr:a ./profile --build=missing > "$kind.log" 2>&1 ||
    { cat "$kind.log"; exit 1; }
  grep -q 'xsimd/14.0.0.*Cache' "$kind.log" || { echo "the recipe does not ask for xsimd"; exit 1; }
  echo "$kind: heed/$version"
done
if "$conan" create "a recipe/all" --version "$version" -pr:a ./profile -s compiler.cppstd=17 > cxx17.log 2>&1; then
  echo "the recipe takes C++17"
  exit 1
fi
grep -q "C++ standard" cxx17.log || { cat cxx17.log; exit 1; }
