# SPDX-License-Identifier: BSD-3-Clause
# Runs the port of packaging/vcpkg without vcpkg, which cannot be had offline: cmake -DSOURCE=... -DFOLDER=...
# -P vcpkg.cmake. The functions are stand-ins for vcpkg's: they do what its pages say of the arguments that the port
# gives, and refuse all others. They do not show that the port builds in vcpkg itself.

set(port_dir "${SOURCE}/packaging/vcpkg/heed")
file(READ "${port_dir}/vcpkg.json" manifest)
string(JSON PORT GET "${manifest}" name)
string(JSON VERSION GET "${manifest}" version)
set(CURRENT_PACKAGES_DIR "${FOLDER}/packages/${PORT}")
set(CURRENT_BUILDTREES_DIR "${FOLDER}/buildtrees/${PORT}")
file(REMOVE_RECURSE "${FOLDER}/packages" "${FOLDER}/buildtrees")

function(require)
  if(NOT (${ARGN}))
    list(JOIN ARGN " " condition)
    message(FATAL_ERROR "the port breaks a rule of vcpkg: not ${condition}")
  endif()
endfunction()

macro(parse prefix flags values lists)
  cmake_parse_arguments(${prefix} "${flags}" "${values}" "${lists}" ${ARGN})
  if(${prefix}_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "an argument that the stand-in does not know: ${${prefix}_UNPARSED_ARGUMENTS}")
  endif()
endmacro()

# The archive of the tag, unpacked: here the checkout
function(vcpkg_from_github)
  parse(arg "" "OUT_SOURCE_PATH;REPO;REF;SHA512;HEAD_REF" "" ${ARGN})
  require(arg_REPO MATCHES "^[^/]+/heed$")
  require(arg_REF STREQUAL "v${VERSION}")
  require(arg_SHA512 MATCHES "^(0|[0-9a-f]+)$")
  set(${arg_OUT_SOURCE_PATH} "${SOURCE}" PARENT_SCOPE)
endfunction()

function(run)
  execute_process(COMMAND ${CMAKE_COMMAND} ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(code)
    message(FATAL_ERROR "${said}")
  endif()
endfunction()

function(vcpkg_cmake_configure)
  parse(arg "" "SOURCE_PATH" "OPTIONS" ${ARGN})
  run(-S "${arg_SOURCE_PATH}" -B "${CURRENT_BUILDTREES_DIR}" ${arg_OPTIONS} -DCMAKE_BUILD_TYPE=Release
    "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_INSTALL_BINDIR=bin
    -DBUILD_SHARED_LIBS=OFF "-DCMAKE_PREFIX_PATH=${PREFIXES}" "-DCMAKE_CXX_COMPILER=${COMPILER}")
endfunction()

function(vcpkg_cmake_install)
  run(--build "${CURRENT_BUILDTREES_DIR}" --target install)
endfunction()

# Moves the package files to share/<port>; a prefix that they compute is two folders above then.
function(vcpkg_cmake_config_fixup)
  parse(arg "" "CONFIG_PATH" "" ${ARGN})
  set(from "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}")
  require(EXISTS "${from}/heedConfig.cmake")
  file(GLOB files "${from}/*")
  file(COPY ${files} DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
  file(REMOVE_RECURSE "${from}")
  get_filename_component(parent "${from}" DIRECTORY)
  if(parent MATCHES "/cmake$")
    file(REMOVE_RECURSE "${parent}")
  endif()
  file(GLOB files "${CURRENT_PACKAGES_DIR}/share/${PORT}/*.cmake")
  foreach(file IN LISTS files)
    file(READ "${file}" text)
    string(REGEX REPLACE "(_IMPORT_PREFIX \"\\\${CMAKE_CURRENT_LIST_FILE}\" PATH\\))(\nget_filename_component\
\\(_IMPORT_PREFIX \"\\\${_IMPORT_PREFIX}\" PATH\\))*" "\\1\\2\\2" text "${text}")
    string(REGEX REPLACE "\\\${CMAKE_CURRENT_LIST_DIR}/\\.\\./(\\.\\./)*\" ABSOLUTE"
      "\${CMAKE_CURRENT_LIST_DIR}/../../\" ABSOLUTE" text "${text}")
    file(WRITE "${file}" "${text}")
  endforeach()
endfunction()

function(vcpkg_fixup_pkgconfig)
  require(EXISTS "${CURRENT_PACKAGES_DIR}/share/pkgconfig/heed.pc")
endfunction()

function(vcpkg_install_copyright)
  parse(arg "" "" "FILE_LIST" ${ARGN})
  configure_file("${arg_FILE_LIST}" "${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright" COPYONLY)
endfunction()

include("${port_dir}/portfile.cmake")

# What vcpkg looks at after a build
require(VCPKG_BUILD_TYPE STREQUAL "release")
foreach(file IN ITEMS include/heed/heed.hpp share/heed/copyright share/heed/usage share/heed/heedConfig.cmake)
  require(EXISTS "${CURRENT_PACKAGES_DIR}/${file}")
endforeach()
foreach(folder IN ITEMS lib bin debug share/cmake share/doc)
  require(NOT EXISTS "${CURRENT_PACKAGES_DIR}/${folder}")
endforeach()
