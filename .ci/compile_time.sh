#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# compile_time.sh [COMPILER] [FLAGS]: CPU seconds to compile one call of each verb, and how many times a unit with
# xsimd alone that is (-O2 -march=native unless FLAGS say otherwise; the least of three).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compiler=${1:-g++}
flags=("${@:2}")
((${#flags[@]})) || flags=(-O2 -march=native)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# seconds TEXT: of the unit with this text
seconds() {
  echo "$1" >"$folder/unit.cpp"
  for _ in 1 2 3; do
    { TIMEFORMAT='%U'; time "$compiler" -std=c++20 "${flags[@]}" -I include -c "$folder/unit.cpp" -o "$folder/unit.o"; } 2>&1
  done | sort -n | head -1
}

tensors='const heed::tensor_view<float, 4>& q, const heed::tensor_view<float, 4>& o'
base=$(seconds '#include <xsimd/xsimd.hpp>')
printf '%-34s %5.2f s\n' 'xsimd alone' "$base"
row() {
  local time
  time=$(seconds "#include \"heed/$1.hpp\"
void call($tensors, heed::state_view<float> s, const heed::tensor_view<float, 3>& g) { $3; (void)s; (void)g; }")
  printf '%-34s %5.2f s, %.1f times xsimd\n' "$2" "$time" "$(echo "$time $base" | awk '{print $1 / $2}')"
}
row softmax softmax::forward 'heed::softmax::forward(q, q, q, o)'
row mixture_of_head mixture_of_head::forward 'heed::mixture_of_head::forward(q, q, q, g, o)'
row local_linear local_linear::forward 'heed::local_linear::forward(q, q, q, 0.1, o)'
row linear linear::forward 'heed::linear::forward(q, q, q, o)'
row linear linear::decode 'heed::linear::decode(q, q, q, s, o)'
row lightning lightning::forward 'heed::lightning::forward(q, q, q, heed::log_gates(g), o)'
