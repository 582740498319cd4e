# SPDX-License-Identifier: BSD-3-Clause
# Every file that names heed's version names that of version.hpp, and find_package refuses other minor versions.

source "$SOURCE/tests/packaging/common.bash"
version=$(sed -n 's/^#define HEED_VERSION_.* //p' "$SOURCE/include/heed/version.hpp" | paste -sd .)
minor=${version%.*}

failed=0
# names FILE EXPRESSION VERSION: what the expression of sed finds in the file is the version, and it finds something
names() {
  local found
  found=$(sed -nE "$2" "$SOURCE/$1" | sort -u)
  [[ $found == "$3" ]] || { echo "$1 names version ${found:-(none)}, not $3"; failed=1; }
}
names CITATION.cff 's/^version: (.*)$/\1/p' "$version"
names CHANGELOG.md '/^## \[/{s/^## \[([^]]*)\].*/\1/p;q}' "$version"
names packaging/vcpkg/heed/vcpkg.json 's/^  "version": "(.*)",$/\1/p' "$version"
names packaging/conan/config.yml 's/^  "(.*)":$/\1/p' "$version"
names packaging/conan/all/conandata.yml 's/^  "(.*)":$/\1/p' "$version"
names packaging/conan/all/conandata.yml 's|^.*/v([0-9.]*)\.tar\.gz"$|\1|p' "$version"
names README.md 's/^.*find_package\(heed ([0-9.]+).*$/\1/p' "$minor"
names docs/install.md 's/^.*find_package\(heed ([0-9.]+).*$/\1/p' "$minor"
names docs/install.md 's/^.*(gh:OWNER\/heed@|GIT_TAG v|heed\/)([0-9]+\.[0-9]+\.[0-9]+).*$/\2/p' "$version"
names tests/packaging/consumer/CMakeLists.txt 's/^.*find_package\(heed ([0-9.]+).*$/\1/p' "$minor"
names tests/packaging/consumer/CMakeLists.txt 's/^.*heed@([0-9.]+).*$/\1/p' "$version"
if ((failed)); then exit 1; fi

# The public workflow is .ci/run and no step of its own.
workflow=$SOURCE/.github/workflows/ci.yml
steps=$(grep -E '^ *-? *(run|uses):' "$workflow" | sed 's/@.*//; s/^[ -]*//')
[[ $steps == $'uses: actions/checkout\nrun: bash .ci/run' ]] ||
  { echo ".github/workflows/ci.yml does more or less than .ci/run"; exit 1; }

install "a prefix/heed"
"$CMAKE" -S "$SOURCE/tests/packaging/versions" -B asked -DHEED_VERSION="$version" \
  -DCMAKE_PREFIX_PATH="$PWD/a prefix/heed;$PREFIXES"
