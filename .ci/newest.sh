#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Builds and runs the tests with the newest xsimd, Eigen and Catch2 of the distribution. Nothing is installed: the
# packages come through an apt configuration of their own (this machine's source file, with the suite replaced) and are
# unpacked into build/newest-packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
suite=${1:-sid}

root=$PWD/build/newest-packages
rm -rf "$root"
mkdir -p "$root"/{sources,lists/partial,cache/archives/partial,files}
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

skip() {
  echo "SKIPPED: build with the newest xsimd, Eigen and Catch2: $1"
  exit 0
}

# The stanza (or line) of this release itself, without its security and update suites.
for file in /etc/apt/sources.list.d/*.sources; do
  [[ -f $file ]] || continue
  awk -v RS= -v old="$codename" -v new="$suite" '
    match($0, "(^|\n)Suites:[^\n]*") && substr($0, RSTART, RLENGTH) " " ~ "[ :]" old " " {
      stanza = substr($0, 1, RSTART - 1) "\nSuites: " new substr($0, RSTART + RLENGTH) "\n"
      sub("(^|\n)Types:[^\n]*", "\nTypes: deb deb-src", stanza)
      print stanza
    }' "$file"
done > "$root/sources/newest.sources"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [[ -f $file ]] || continue
  sed -nE "s/^deb (.*[^ ]) +$codename +main.*/deb \1 $suite main\ndeb-src \1 $suite main/p" "$file"
done > "$root/sources/newest.list"

apt=(-q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$root/sources" -o Dir::State::Lists="$root/lists"
     -o Dir::Cache="$root/cache" -o APT::Sandbox::User=root -o Acquire::Retries=2)
apt-get "${apt[@]}" update > "$root/update.log" 2>&1 || skip "no package lists of $suite"
grep -q '^[EW]:' "$root/update.log" && skip "no package lists of $suite: $(grep -m1 '^[EW]:' "$root/update.log")"
cd "$root/files"
apt-get "${apt[@]}" download libxsimd-dev libeigen3-dev libcatch2-dev || skip "packages not reachable"
for package in *.deb; do dpkg -x "$package" "$root"; done

# The library in the package asks for a newer C library than this machine has; the same release in one source file does
# not.
apt-get "${apt[@]}" --download-only source catch2 || skip "the source of Catch2 is not reachable"
tar xf catch2_*.orig.tar.* --wildcards '*/extras/catch_amalgamated.*' --strip-components=2
g++ -std=c++20 -O1 -DCATCH_AMALGAMATED_CUSTOM_MAIN -c catch_amalgamated.cpp -o catch.o
rm "$root"/usr/lib/libCatch2.a
ar rcs "$root"/usr/lib/libCatch2.a catch.o
cd - > /dev/null

# What meets xsimd (the layers below the kernels, and each kernel once), Eigen (the reference, its golden files) and
# Catch2 (all of them); and as a package.
cmake -S . -B build/newest -G Ninja -DCMAKE_PREFIX_PATH="$root/usr" -DHEED_TEST_ISAS=native \
  "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG" \
  "-DHEED_TEST_MATCH=^(simd|tile|pairwise|recurrent|interop)_|_(forward|golden|decode)$" -DHEED_BUILD_BENCH=OFF \
  -DHEED_BUILD_EXAMPLES=OFF "-DHEED_TEST_PACKAGING_MATCH=^consumer$" | tee build/newest.log
grep -qE "^-- heed .*: xsimd (1[4-9]|[2-9][0-9])\." build/newest.log || { echo "that is not the newest xsimd"; exit 1; }
cmake --build build/newest
ctest --test-dir build/newest --output-on-failure --no-tests=error -j "$(nproc)"
