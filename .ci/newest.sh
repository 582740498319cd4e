#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# newest.sh [SUITE]: downloads the newest xsimd, Eigen and Catch2 of the distribution. Nothing is installed: the
# packages come through an apt configuration of their own (this machine's source file, with the suite replaced) and are
# unpacked into build/newest-packages/usr, which is only there when all of them could be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
suite=${1:-sid}

root=$PWD/build/newest-packages
rm -rf "$root"
mkdir -p "$root"/{sources,lists/partial,cache/archives/partial,files}
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

skip() {
  echo "SKIPPED: the newest xsimd, Eigen and Catch2: $1"
  rm -rf "$root/usr"
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
# The library of Catch2 in its package asks for a newer C library than this machine has; the same release in one source
# file does not.
apt-get "${apt[@]}" --download-only source catch2 || skip "the source of Catch2 is not reachable"
tar xf catch2_*.orig.tar.* --wildcards '*/extras/catch_amalgamated.*' --strip-components=2
clang++ -std=c++20 -O1 -DCATCH_AMALGAMATED_CUSTOM_MAIN -c catch_amalgamated.cpp -o catch.o
for package in *.deb; do dpkg -x "$package" "$root"; done
rm "$root"/usr/lib/libCatch2.a
ar rcs "$root"/usr/lib/libCatch2.a catch.o
