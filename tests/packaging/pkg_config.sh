# SPDX-License-Identifier: BSD-3-Clause
# heed through pkg-config: moved after its installation, under a path with a space. xsimd comes through Requires.

source "$SOURCE/tests/packaging/common.bash"
command -v pkg-config > /dev/null || skip "pkg-config is not installed"

install "a prefix/heed"
export PKG_CONFIG_PATH="$PWD/a prefix/heed/share/pkgconfig"
while IFS= read -r prefix; do
  if [[ $prefix ]]; then PKG_CONFIG_PATH+=":$prefix/share/pkgconfig:$prefix/lib/pkgconfig"; fi
done < <(tr ';' '\n' <<< "$PREFIXES")
pkg-config --exists xsimd || skip "xsimd is here without its pkg-config file"

version=$(sed -n 's/^#define HEED_VERSION_.* //p' "$SOURCE/include/heed/version.hpp" | paste -sd .)
[[ $(pkg-config --modversion heed) == "$version" ]] || { echo "heed.pc has another version"; exit 1; }
pkg-config --exists 'heed >= 0.2'
if pkg-config --exists 'heed >= 99'; then echo "heed.pc has any version"; exit 1; fi
if PKG_CONFIG_PATH= PKG_CONFIG_LIBDIR="$PWD/a prefix/heed/share/pkgconfig" pkg-config --exists heed; then
  echo "heed.pc does not ask for xsimd"
  exit 1
fi

eval "flags=($(pkg-config --cflags heed))"  # pkg-config quotes the space for a shell
[[ " ${flags[*]}/" == *"-I$PWD/a prefix/heed/"* ]] || { echo "not below the prefix: ${flags[*]}"; exit 1; }
for compiler in "${compilers[@]}"; do
  $compiler -std=c++20 $strict "${flags[@]}" "$SOURCE/tests/packaging/consumer/merge.cpp" -o merge
  ./merge
  $compiler -std=c++2b $bare $strict -fsyntax-only "${flags[@]}" "$SOURCE/tests/packaging/consumer/merge.cpp"
  echo "$compiler ${flags[*]}"
done
