# SPDX-License-Identifier: BSD-3-Clause
# Gradients beside torch autograd. The program takes half a minute to compile and is built where torch is installed;
# elsewhere examples/torch_check.py says so and is skipped. -DPython3_EXECUTABLE=... names another interpreter.
find_package(Python3 QUIET COMPONENTS Interpreter)
if(Python3_FOUND AND NOT CMAKE_CROSSCOMPILING AND "torch_check" MATCHES "${HEED_TEST_MATCH}")
  execute_process(COMMAND ${Python3_EXECUTABLE} -c "import importlib.util as i, sys; sys.exit(not i.find_spec('torch'))"
    RESULT_VARIABLE no_torch OUTPUT_QUIET ERROR_QUIET)
  set(program ${CMAKE_CURRENT_BINARY_DIR}/gradients_of_file)
  if(no_torch EQUAL 0)
    add_executable(gradients_of_file torch/gradients_of_file.cpp)
    target_link_libraries(gradients_of_file PRIVATE heed_test)
    if("native" IN_LIST HEED_TEST_ISAS)
      target_compile_options(gradients_of_file PRIVATE ${heed_flags_native})
    endif()
    set(program $<TARGET_FILE:gradients_of_file>)
  endif()
  add_test(NAME torch_check COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/examples/torch_check.py ${program})
  set_tests_properties(torch_check PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900)
endif()
