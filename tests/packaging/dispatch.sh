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
if [[ $(uname -m) == x86_64 ]]; then
  lower=yes   # a level is capped to itself up to the highest, and to that from there on
  for level in sse2 avx2 avx512 avx512_bf16; do
    expected=$([[ $lower ]] && echo $level || echo "$highest")
    got=$(HEED_LEVEL=$level build/calls)
    echo "HEED_LEVEL=$level: $got"
    [[ $got == "$expected" ]] || { echo "expected $expected"; exit 1; }
    if [[ $level == "$highest" ]]; then lower=; fi
  done
fi
[[ $(HEED_LEVEL=nonsense build/calls) == "$highest" ]]

# Callers compile declarations: no xsimd, no engine, whatever they call.
every=$SOURCE/tests/packaging/dispatch/every.cpp
$CXX -std=c++20 -DHEED_DISPATCH -I "a prefix/heed/include" -M "$every" > includes.txt
if grep -E 'xsimd|_call\.hpp|heed/(tile|pairwise|recurrent)/' includes.txt; then
  echo "headers that callers should not need"
  exit 1
fi

# No weak symbol of one level can be taken for another's, or for the caller's.
tag='v[0-9]+_[0-9]+_[a-z0-9_]+_(plain|checked)_(throws|aborts|calls)|8dispatch[0-9]+(sse2|avx2|avx512|neon|generic)'
shared='_Z(T[ISV]N4heed|NK?4heed)[0-9]+(error|not_converged)([EDC]|$)|__clang_call_terminate'
shared+='|_ZNSt15__exception_ptr13exception_ptrD[12]Ev|__to_chars_10_impl|DW\.ref\.__gxx_personality'
nm --defined-only "$BUILD/libheed_dispatch.a" 2> /dev/null | awk '$2 ~ /^[WVu]$/ {print $3}' | sort -u > weak.txt
grep -qE "$tag" weak.txt || { echo "found no weak symbol to look at"; exit 1; }
if grep -vE -e "$tag" -e "$shared" weak.txt; then
  echo "weak symbols without a level"
  exit 1
fi
# Nor for that of the headers, compiled for the same machine elsewhere in the program
$CXX -std=c++20 -O1 -I "a prefix/heed/include" $THIRD_PARTY -c "$SOURCE/tests/packaging/dispatch/other.cpp" -o other.o
nm --defined-only other.o | awk '$2 ~ /^[WVu]$/ {print $3}' | grep -E "$tag" | sort -u > headers.txt
comm -12 headers.txt weak.txt > both.txt
[[ -s headers.txt && ! -s both.txt ]] || { cat both.txt; echo "symbols of both the library and the headers"; exit 1; }

# As a folder of another project: configured only, it takes minutes to compile
"$CMAKE" -S "$SOURCE/tests/packaging/dispatch" -B folder -DCMAKE_CXX_COMPILER="$CXX" -DHEED_FOLDER="$SOURCE" \
  -DCMAKE_PREFIX_PATH="$PREFIXES" > folder.log 2>&1 || { cat folder.log; exit 1; }

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
