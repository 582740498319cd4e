# SPDX-License-Identifier: BSD-3-Clause
# heed::dispatch: all verbs compiled once per level, chosen when a program runs. BUILD_SHARED_LIBS decides which kind of
# library it is.

include(GNUInstallDirs)
set(HEED_DISPATCH_LEVEL "" CACHE STRING "The only level of heed::dispatch, for tests; empty: all levels")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(heed_levels sse2 avx2 avx512)
  set(heed_flags_of_avx2 -mavx2 -mfma -mbmi2 -mf16c)
  # bf16 dot products and AMX are in functions that carry their own targets
  set(heed_flags_of_avx512 ${heed_flags_of_avx2} -mavx512f -mavx512cd -mavx512dq -mavx512bw -mavx512vl)
  # GCC's generic tuning clears and copies small structs by `rep`, which starts slowly: 30 ns a call in
  # bench/dispatch_bench.cpp
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND NOT CMAKE_CXX_FLAGS MATCHES "-m(tune|arch)=")
    set(heed_tune -mtune=icelake-server)
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(heed_levels neon)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^i[3-6]86$")
  set(heed_levels sse2)
  set(heed_flags_of_sse2 -msse2 -mfpmath=sse)
else()
  set(heed_levels generic)
endif()
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  message(FATAL_ERROR "heed::dispatch is compiled by GCC or Clang; this is ${CMAKE_CXX_COMPILER_ID}")
endif()

if(HEED_DISPATCH_LEVEL)
  if(NOT HEED_DISPATCH_LEVEL IN_LIST heed_levels)
    message(FATAL_ERROR "HEED_DISPATCH_LEVEL is ${HEED_DISPATCH_LEVEL}, must be one of ${heed_levels}, or empty")
  endif()
  set(heed_levels ${HEED_DISPATCH_LEVEL})
endif()
list(LENGTH heed_levels heed_level_count)

foreach(level IN LISTS heed_levels)
  add_library(heed_dispatch_${level} OBJECT src/dispatch/convert.cpp src/dispatch/local_linear.cpp
    src/dispatch/pairwise.cpp src/dispatch/recurrent.cpp src/dispatch/table.cpp)
  target_link_libraries(heed_dispatch_${level} PRIVATE heed)
  target_compile_options(heed_dispatch_${level} PRIVATE ${heed_flags_of_${level}} ${heed_tune})
  # Several levels are optimised whatever the build type: functions of the standard library then leave no symbol that
  # another level, or the caller, could take from the wrong object.
  if(heed_level_count GREATER 1)
    target_compile_options(heed_dispatch_${level} PRIVATE $<$<NOT:$<CONFIG:Release,RelWithDebInfo,MinSizeRel>>:-O2>)
  endif()
  target_compile_definitions(heed_dispatch_${level} PRIVATE HEED_DISPATCH_LEVEL=${level})
  set_target_properties(heed_dispatch_${level} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  list(APPEND heed_dispatch_objects $<TARGET_OBJECTS:heed_dispatch_${level}>)
endforeach()

# A library of these objects; type: STATIC, SHARED, or nothing where BUILD_SHARED_LIBS decides
function(heed_add_dispatch name)
  add_library(${name} ${ARGN} src/dispatch/choose.cpp ${heed_dispatch_objects})
  target_compile_features(${name} PUBLIC cxx_std_20)
  target_compile_definitions(${name} INTERFACE HEED_DISPATCH)
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  if(heed_level_count EQUAL 1)
    target_compile_definitions(${name} PRIVATE HEED_DISPATCH_ONLY=${heed_levels})
  endif()
  set_target_properties(${name} PROPERTIES VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
endfunction()
heed_add_dispatch(heed_dispatch)
set_target_properties(heed_dispatch PROPERTIES EXPORT_NAME dispatch)
add_library(heed::dispatch ALIAS heed_dispatch)
if(HEED_BUILD_TESTS)
  heed_add_dispatch(heed_dispatch_shared SHARED)  # for tests/packaging/dispatch.sh
endif()
