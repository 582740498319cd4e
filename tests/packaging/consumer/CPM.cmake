# SPDX-License-Identifier: BSD-3-Clause
# Stands for CPM.cmake, which cannot be had offline: takes the one-line form "gh:OWNER/NAME@VERSION" and the variable
# CPM_<NAME>_SOURCE that names a checkout, as CPM's README says. The real one: HEED_CPM=/path/to/CPM.cmake.
function(CPMAddPackage line)
  if(NOT line MATCHES "^gh:[^/@]+/([^/@]+)@([0-9]+[.][0-9]+[.][0-9]+)$")
    message(FATAL_ERROR "not a line of CPM: ${line}")
  endif()
  set(name ${CMAKE_MATCH_1})
  add_subdirectory(${CPM_${name}_SOURCE} ${CMAKE_BINARY_DIR}/_deps/${name}-build)
endfunction()
