#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# tests/fuzz/fuzz.sh VERB [SECONDS]: builds the fuzz target of a verb and runs it. Inputs that find something are in
# build/fuzz/findings; HEED_FUZZ_TELL=1 build/fuzz/tests/fuzz_PROGRAM INPUT (with HEED_FUZZ_VERB=VERB) says which call
# one means. Inputs that reach new code are kept in build/fuzz/corpus/VERB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
verb=${1:-}
seconds=${2:-60}
list=$(grep -l "X($verb)" tests/fuzz/*_targets.cpp || true)
if [[ -z $verb || -z $list ]]; then
  echo "There are" >&2
  grep -oh 'X([a-z_]*)' tests/fuzz/*_targets.cpp | sed 's/X(\(.*\))/  \1/' | grep . >&2
  exit 2
fi
program=fuzz_$(basename "$list" _targets.cpp)
mkdir -p "build/fuzz/corpus/$verb" build/fuzz/findings
cmake --preset fuzz >build/fuzz/cmake.log || { cat build/fuzz/cmake.log >&2; exit 1; }
cmake --build --preset fuzz --target "$program"
export HEED_FUZZ_VERB=$verb
exec "build/fuzz/tests/$program" -max_total_time="$seconds" -max_len=160 -timeout=30 -entropic=0 -print_funcs=0 \
  -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$verb-" "build/fuzz/corpus/$verb" \
  "tests/fuzz/corpus/$verb"
