#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# no_cuda.sh FOLDER: compiles no_cuda.c once for each library that the torch of requirements.txt asks for by name.
set -euo pipefail
source=$(dirname "${BASH_SOURCE[0]}")/no_cuda.c
mkdir -p "$1"
for name in libcudart.so.13 libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcufile.so.0 \
  libcupti.so.13 libcusolver.so.12 libcusparse.so.12 libcusparseLt.so.0 libnccl.so.2 libnvrtc.so.13 \
  libnvshmem_host.so.3; do
  version=$name  # torch asks for symbols of a version, mostly named like the library
  [[ $name != libnvshmem* ]] || version=NVSHMEM
  echo "$version { *; };" >"$1/version"
  cc -shared -fPIC -O1 "-Wl,-soname,$name" "-Wl,--version-script=$1/version" "$source" -o "$1/$name"
done
