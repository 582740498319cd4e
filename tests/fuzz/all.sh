#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# tests/fuzz/all.sh SECONDS [JOBS]: runs every fuzz target for so long, JOBS (all cores) at a time, and prints how many
# calls each has made, and all of them. Fails where one has found something.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-60}
jobs=${2:-$(nproc)}
mkdir -p build/fuzz/logs
cmake --preset fuzz >build/fuzz/cmake.log && cmake --build --preset fuzz || exit 1
verbs=$(grep -oh 'X([a-z_]*)' tests/fuzz/*_targets.cpp | sed 's/X(\(.*\))/\1/' | grep .)
xargs -P "$jobs" -I{} sh -c "tests/fuzz/fuzz.sh {} $seconds >build/fuzz/logs/{}.log 2>&1 || echo 'FOUND by {}'" \
  <<<"$verbs" | tee build/fuzz/logs/found
total=0
for verb in $verbs; do
  n=$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/logs/$verb.log")
  printf '%-28s %10d\n' "$verb" "${n:-0}"
  total=$((total + ${n:-0}))
done
printf '%-28s %10d\n' all "$total"
[[ ! -s build/fuzz/logs/found ]]
