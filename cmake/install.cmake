# SPDX-License-Identifier: BSD-3-Clause
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(heed_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/heed)  # under share: nothing here depends on the architecture
set(heed_doc_dir ${CMAKE_INSTALL_DATADIR}/doc/heed)
set(heed_build_dir ${CMAKE_CURRENT_BINARY_DIR}/package)

set(heed_dispatch_targets ${CMAKE_INSTALL_LIBDIR}/cmake/heed/heedDispatchTargets.cmake)
configure_package_config_file(cmake/heedConfig.cmake.in ${heed_build_dir}/heedConfig.cmake
  INSTALL_DESTINATION ${heed_package_dir} PATH_VARS heed_dispatch_targets NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${heed_build_dir}/heedConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(DIRECTORY include/heed DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(FILES ${heed_build_dir}/heedConfig.cmake ${heed_build_dir}/heedConfigVersion.cmake cmake/dependencies.cmake
        DESTINATION ${heed_package_dir})
install(FILES LICENSE DESTINATION ${heed_doc_dir})

# pkg-config: -std=c++20 is the caller's
configure_file(cmake/heed.pc.in ${heed_build_dir}/heed.pc @ONLY)
install(FILES ${heed_build_dir}/heed.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)

# Pages and examples, side by side as in the checkout, so that links between them hold. Alone: --component doc
if(HEED_INSTALL_DOCS)
  install(FILES README.md CHANGELOG.md DESTINATION ${heed_doc_dir} COMPONENT doc)
  install(DIRECTORY docs examples DESTINATION ${heed_doc_dir} COMPONENT doc PATTERN CMakeLists.txt EXCLUDE)
endif()

set_target_properties(heed_native PROPERTIES EXPORT_NAME native)
install(TARGETS heed heed_native EXPORT heed INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT heed NAMESPACE heed:: FILE heedTargets.cmake DESTINATION ${heed_package_dir})

# heed::dispatch, whose files depend on the architecture
if(HEED_BUILD_DISPATCH)
  install(TARGETS heed_dispatch EXPORT heed_dispatch)
  install(EXPORT heed_dispatch NAMESPACE heed:: FILE heedDispatchTargets.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/heed)
endif()
