# SPDX-License-Identifier: BSD-3-Clause
# heed::dispatch of the installed package: found as a component, linked beside code of the headers, capped by
# HEED_LEVEL, without exceptions, static and shared.

source "$SOURCE/tests/packaging/common.bash"

if [[ ! -f $BUILD/libheed_dispatch.a ]]; then skip "this build has no heed::dispatch"; fi
install "a prefix/heed"
if grep -rnF -e "$SOURCE" -e "$BUILD" -e "$PWD" "a prefix" --include='*.cmake'; then
  echo "the installed package names a folder of this machine"
  exit 1
fi

rm -rf build
{ "$CMAKE" -S "$SOURCE/tests/packaging/dispatch" -B build -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_CXX_FLAGS="$strict" \
  -DCMAKE_PREFIX_PATH="$PWD/a prefix/heed;$PREFIXES" && "$CMAKE" --build build; } > build.log 2>&1 ||
  { cat build.log; exit 1; }
highest=$(env -u HEED_LEVEL build/calls)
echo "static: $highest"
for level in sse2 avx2 avx512 avx512_bf16 "$highest"; do
  got=$(HEED_LEVEL=$level build/calls)
  echo "HEED_LEVEL=$level: $got"
  [[ $got == "$level" || $got == "$highest" ]] || { echo "not capped, and not the highest"; exit 1; }
done
[[ $(uname -m) != x86_64 || $(HEED_LEVEL=sse2 build/calls) == sse2 ]] || { echo "HEED_LEVEL has no effect"; exit 1; }

build/bare
if build/bare wrong 2> said.txt; then
  echo "a call with wrong shapes returned"
  exit 1
fi
grep -q 7 said.txt && grep -q 8 said.txt || { cat said.txt; echo "the text does not name both numbers"; exit 1; }

# The same objects as a shared library: one name per minor version, and nothing in it to be seen but what callers need.
library=$BUILD/libheed_dispatch_shared.so
readelf -d "$library" > dynamic.txt
grep -q 'SONAME.*libheed_dispatch_shared.so.[0-9]*\.[0-9]*\]' dynamic.txt || { cat dynamic.txt; exit 1; }
needed='heed::(v[0-9_]+::level|dispatch::v[0-9_]+::.*chosen)|std::'
nm -DC --defined-only "$library" | grep -E ' [A-Z] ' | grep -vE "$needed" > seen.txt || true
if [[ -s seen.txt ]]; then
  echo "symbols that callers do not need:"
  cat seen.txt
  exit 1
fi
calls=$SOURCE/tests/packaging/dispatch
$CXX -std=c++20 $strict -DHEED_DISPATCH -I "a prefix/heed/include" $THIRD_PARTY "$calls/calls.cpp" "$calls/other.cpp" \
  "$library" -Wl,-rpath,"$BUILD" -o shared
[[ $(./shared) == "$highest" ]] || { echo "the shared library runs on another level"; exit 1; }
echo "shared: $highest"
