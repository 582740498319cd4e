#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# .ci/count_tests.sh [BUILD...]: what the last run of ctest in each folder of a build held (build/release if none is
# named): tests of ctest, and the test cases and assertions in them. Programs that are no Catch2 tests have none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for build in "${@:-build/release}"; do
  log=$build/Testing/Temporary/LastTest.log
  [[ -f $log ]] || { echo "no tests have run in $build" >&2; exit 1; }
  awk -v build="$build" '
    /^[0-9]+\/[0-9]+ Test: / { ++tests }
    /^All tests passed \(/ { for (i = 1; i < NF; ++i) { gsub(/[(]/, "", $i); word = $(i + 1)
      if (word ~ /^assertion/) assertions += $i; else if (word ~ /^test/) cases += $i } }
    END { printf "%s: %d tests of ctest, %d test cases, %d assertions\n", build, tests, cases, assertions }' "$log"
done
