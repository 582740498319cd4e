# SPDX-License-Identifier: BSD-3-Clause
# AArch64 with Debian's cross compiler; programs run on qemu. Headers of libraries without machine code (xsimd, Eigen,
# Catch2, ...) are this machine's own, searched last.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CXX_FLAGS_INIT "-idirafter /usr/include -Wno-psabi")  # notes about how other versions of g++ pass pairs
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
