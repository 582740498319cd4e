# SPDX-License-Identifier: BSD-3-Clause
# Fuzz targets: programs of a few verbs each, which replay tests/fuzz/corpus/<verb> as the test fuzz_<verb>_<level>.
# With HEED_FUZZ they are libFuzzer's instead. Where heed::dispatch is built. <program>_targets.cpp lists the verbs.
# A program calls the verbs by the run.cpp of its folder, or itself.

function(heed_add_fuzz_program program)
  if(NOT fuzz_${program} MATCHES "${HEED_TEST_MATCH}" OR fuzz_${program} MATCHES "${HEED_TEST_SKIP}")
    return()
  endif()
  if(NOT HEED_FUZZ AND NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus)  # tests/fuzz/keep.py makes it
    return()
  endif()
  list(TRANSFORM ARGN REPLACE "(.+)" "fuzz/\\1.cpp" OUTPUT_VARIABLE sources)
  if(TARGET ${program}_run_dispatch)
    heed_add_objects(fuzz_${program}_objects checks ${sources} fuzz/${program}_targets.cpp)
    set(objects $<TARGET_OBJECTS:fuzz_${program}_objects> $<TARGET_OBJECTS:${program}_run_dispatch>)
  else()
    heed_add_objects(fuzz_${program}_objects dispatch ${sources} fuzz/${program}_targets.cpp)
    set(objects $<TARGET_OBJECTS:fuzz_${program}_objects>)
  endif()
  add_executable(fuzz_${program} fuzz/main.cpp ${objects})
  target_link_libraries(fuzz_${program} PRIVATE heed_test heed_test_support heed_dispatch)
  if(HEED_FUZZ)
    target_compile_definitions(fuzz_${program} PRIVATE HEED_LIBFUZZER)
    target_link_options(fuzz_${program} PRIVATE -fsanitize=fuzzer)
    return()
  endif()
  file(STRINGS fuzz/${program}_targets.cpp lines REGEX "X\\([a-z_]+\\)")
  string(REGEX MATCHALL "X\\([a-z_]+\\)" verbs "${lines}")
  foreach(verb IN LISTS verbs)
    string(REGEX REPLACE "X\\((.+)\\)" "\\1" verb ${verb})
    foreach(level IN LISTS HEED_TEST_LEVELS)
      set(environment)
      if(NOT level STREQUAL highest)
        set(environment HEED_LEVEL=${level})
      endif()
      add_test(NAME fuzz_${verb}_${level}
        COMMAND fuzz_${program} ${verb} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${verb})
      set_tests_properties(fuzz_${verb}_${level} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900 LABELS "${level}"
        ENVIRONMENT "${environment}")
    endforeach()
  endforeach()
endfunction()

heed_add_fuzz_program(softmax softmax mixture_of_head decode)
heed_add_fuzz_program(local_linear local_linear)
heed_add_fuzz_program(linear linear)
heed_add_fuzz_program(lightning lightning)
heed_add_fuzz_program(cache cache convert)
