# SPDX-License-Identifier: BSD-3-Clause
# Target heed_bundles: bundles/heed.hpp, and bundles/heed_<name>.hpp for each header that users include.
find_package(Python3 QUIET COMPONENTS Interpreter)
if(NOT Python3_FOUND)
  return()
endif()
file(GLOB headers CONFIGURE_DEPENDS include/heed/*.hpp)
file(GLOB_RECURSE all_headers CONFIGURE_DEPENDS include/heed/*.hpp)
set(heed_bundle_files)
foreach(header IN LISTS headers)
  get_filename_component(name ${header} NAME)
  if(NOT name STREQUAL "heed.hpp")
    set(name heed_${name})
  endif()
  list(APPEND heed_bundle_files ${CMAKE_CURRENT_BINARY_DIR}/bundles/${name})
endforeach()
add_custom_command(OUTPUT ${heed_bundle_files}
  COMMAND ${Python3_EXECUTABLE} cmake/bundle.py ${CMAKE_CURRENT_BINARY_DIR}/bundles
  DEPENDS cmake/bundle.py LICENSE ${all_headers} WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
  COMMENT "Bundles, one header each" VERBATIM)
add_custom_target(heed_bundles ALL DEPENDS ${heed_bundle_files})
