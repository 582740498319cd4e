# SPDX-License-Identifier: BSD-3-Clause
# Translation units compiled for different machines in one program: it runs, and no weak symbol of heed (the linker
# keeps one copy of each) is without the tag of its machine. The exception type is shared on purpose: its vtable,
# typeinfo, constructors and destructor. So are two destructors of the standard library that g++ leaves out of line
# where an exception passes, a call each, which are the same code on every machine.

folder=$SOURCE/tests/packaging/two_machines
tag='v[0-9]+_[0-9]+_[a-z0-9_]+_(plain|checked)_(throws|aborts|calls)'
shared='^_Z(T[ISV]N4heed|NK?4heed)[0-9]+(error|not_converged)([EDC]|$)|^__clang_call_terminate$'
shared+='|^_ZNSt15__exception_ptr13exception_ptrD[12]Ev$|^_ZNSt12_Vector_baseIdSaIdEED[12]Ev$'
declare -A flags=([sse2]="" [avx2]="-march=haswell" [avx512]="-march=skylake-avx512")

for level in -O0 -O2; do
  objects=()
  for machine in "${!flags[@]}"; do
    verbs=  # all of them for one machine, in both types where that does not take long
    if [[ $level$machine == -O0avx512 ]]; then verbs="-DEVERY_VERB -DBOTH_TYPES"; fi
    if [[ $level$machine == -O2avx2 ]]; then verbs=-DEVERY_VERB; fi
    $CXX -std=c++20 $level ${flags[$machine]} $verbs -DMACHINE="$machine" -I "$SOURCE/include" $THIRD_PARTY \
      -c "$folder/machine.cpp" -o "$machine.o"
    objects+=("$machine.o")
  done
  $CXX -std=c++20 $level -I "$SOURCE/include" $THIRD_PARTY "$folder/main.cpp" "${objects[@]}" -o program
  ./program

  # Optimised code has no weak function at all that could be taken from another machine, be it the standard library's.
  nm --defined-only "${objects[@]}" | awk '$2 ~ /^[WVu]$/ {print $2, $3}' | sort -u > weak.txt
  if [[ $level == -O0 ]]; then which='4heed'; else which='4heed|^W '; fi
  grep -E "$which" weak.txt | cut -d ' ' -f 2 > heeds.txt || { echo "found no weak symbol to look at"; exit 1; }
  grep -vE -e "$tag" -e "$shared" heeds.txt > untagged.txt || true
  if [[ -s untagged.txt ]]; then
    echo "$level: weak symbols without the tag of their machine:"
    c++filt < untagged.txt
    exit 1
  fi
  echo "$level: $(wc -l < heeds.txt) weak symbols, all tagged"
done
