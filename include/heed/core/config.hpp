// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Every macro of heed, and the checks of how it is compiled.

#if (defined(_MSVC_LANG) && _MSVC_LANG < 202002L) || (!defined(_MSVC_LANG) && __cplusplus < 202002L)
#error "heed needs C++20: compile with -std=c++20, or in CMake: target_compile_features(<target> PRIVATE cxx_std_20)"
#define HEED_STOP <heed needs C++ 20>  // no such file: compilers stop here, instead of at hundreds of errors
#include HEED_STOP
#endif

#include "heed/version.hpp"

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "heed: masks rely on infinities and NaN; after -ffast-math or -Ofast also give -fno-finite-math-only"
#endif

#if defined(__AVX2__) && !defined(__FMA__)
#error "heed: AVX2 without FMA (bare -mavx2) multiplies and adds in two steps; add -mfma or use -march=haswell"
#endif

#if defined(__i386__) && !defined(__SSE2__)
#error "heed: 32-bit x86 needs SSE2: compile with -msse2"
#define HEED_STOP <heed needs SSE2>
#include HEED_STOP
#endif

#if defined(__GNUC__)
#define HEED_INLINE [[gnu::always_inline]] inline  // small functions, members of types that cross translation units
#define HEED_NOINLINE [[gnu::noinline]]
#elif defined(_MSC_VER)
#define HEED_INLINE __forceinline
#define HEED_NOINLINE __declspec(noinline)
#else
#define HEED_INLINE inline
#define HEED_NOINLINE
#endif

// On a function of the compiled library
#if defined(__GNUC__)
#define HEED_EXPORT [[gnu::visibility("default")]]
#else
#define HEED_EXPORT
#endif

// On a type: its objects may lie in memory that the program reads and writes as another type.
#if defined(__GNUC__)
#define HEED_MAY_ALIAS [[gnu::may_alias]]
#else
#define HEED_MAY_ALIAS
#endif

// In front of a loop: twice its body per turn. bench/softmax_bench.cpp, prefill rows: 0.5 to 2 points with g++.
#if defined(__GNUC__) && !defined(__clang__)
#define HEED_UNROLL_2 _Pragma("GCC unroll 2")
#else
#define HEED_UNROLL_2
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define HEED_X86 1
#endif

#if defined(__AVX512F__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__) && defined(__FMA__)
#define HEED_AVX512 1
#define HEED_LEVEL avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define HEED_AVX2 1
#define HEED_LEVEL avx2
#elif defined(__AVX__) && defined(__FMA__)
#define HEED_LEVEL avx_fma
#elif defined(__AVX__)
#define HEED_LEVEL avx
#elif defined(__SSE4_2__)
#define HEED_LEVEL sse4_2
#elif defined(__SSE4_1__)
#define HEED_LEVEL sse4_1
#elif defined(__SSSE3__)
#define HEED_LEVEL ssse3
#elif defined(__SSE2__) || defined(HEED_X86)
#define HEED_LEVEL sse2
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define HEED_NEON 1
#define HEED_LEVEL neon
#else
#define HEED_LEVEL generic
#endif

// Extensions that compilers use by themselves below or above the level; they are part of the tag, because the linker
// keeps one copy of a function that two translation units compiled for different machines.
#ifdef __BMI2__
#define HEED_TAG_BMI2 b
#else
#define HEED_TAG_BMI2 x
#endif
#ifdef __AVX512VBMI2__
#define HEED_TAG_VBMI2 v
#else
#define HEED_TAG_VBMI2 x
#endif
#ifdef __AVX512BF16__
#define HEED_TAG_BF16 h
#else
#define HEED_TAG_BF16 x
#endif
#ifdef __F16C__
#define HEED_TAG_F16C c
#else
#define HEED_TAG_F16C x
#endif

// HEED_ASSERTIONS=1 checks internal preconditions (sanitizer builds); a broken one is a bug of heed, not of its caller.
#ifndef HEED_ASSERTIONS
#define HEED_ASSERTIONS 0
#endif
#if HEED_ASSERTIONS
#define HEED_ASSERT(condition) ((condition) ? void() : __builtin_trap())
#define HEED_TAG_ASSERTIONS checked
#else
#define HEED_ASSERT(condition) void()
#define HEED_TAG_ASSERTIONS plain
#endif

// What a failed check does; see HEED_ON_ERROR below.
#if defined(HEED_ON_ERROR)
#define HEED_TAG_ERRORS calls
#elif defined(__cpp_exceptions)
#define HEED_TAG_ERRORS throws
#else
#define HEED_TAG_ERRORS aborts
#endif

// Whether verbs are calls into the compiled library (d), or this is its own code (l)
#if defined(HEED_DISPATCH)
#define HEED_TAG_CALLS d
#elif defined(HEED_DISPATCH_LEVEL)
#define HEED_TAG_CALLS l
#else
#define HEED_TAG_CALLS x
#endif

#define HEED_PASTE10_(a, b, c, d, e, f, g, h, i, j) v##a##_##b##_##c##_##d##e##f##g##h##_##i##_##j
#define HEED_PASTE10(a, b, c, d, e, f, g, h, i, j) HEED_PASTE10_(a, b, c, d, e, f, g, h, i, j)
#define HEED_PASTE2_(a, b) v##a##_##b
#define HEED_PASTE2(a, b) HEED_PASTE2_(a, b)
#define HEED_NAME_(x) #x
#define HEED_NAME(x) HEED_NAME_(x)

// The innermost inline namespace of every function that is not forced inline: translation units compiled for different
// machines or ways to fail can be linked into one program, and each keeps its own code.
#define HEED_ISA                                                                                                 \
  HEED_PASTE10(HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_LEVEL, HEED_TAG_BMI2, HEED_TAG_VBMI2, HEED_TAG_BF16, \
               HEED_TAG_F16C, HEED_TAG_CALLS, HEED_TAG_ASSERTIONS, HEED_TAG_ERRORS)

// The inline namespace of what the compiled library offers: headers of another minor version do not link with it.
#define HEED_ABI HEED_PASTE2(HEED_VERSION_MAJOR, HEED_VERSION_MINOR)

// Without exceptions a failed check calls this with the text; it must not return.
#if !defined(HEED_ON_ERROR) && !defined(__cpp_exceptions)
#include <cstdio>
#include <cstdlib>
#define HEED_ON_ERROR(text) (std::fputs(text, stderr), std::fputc('\n', stderr), std::abort())
#endif
