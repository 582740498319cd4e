# SPDX-License-Identifier: BSD-3-Clause
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(heed_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/heed)  # under share: nothing here depends on the architecture
set(heed_build_dir ${CMAKE_CURRENT_BINARY_DIR}/package)

configure_package_config_file(cmake/heedConfig.cmake.in ${heed_build_dir}/heedConfig.cmake
                              INSTALL_DESTINATION ${heed_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${heed_build_dir}/heedConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(DIRECTORY include/heed DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(FILES ${heed_build_dir}/heedConfig.cmake ${heed_build_dir}/heedConfigVersion.cmake cmake/dependencies.cmake
        DESTINATION ${heed_package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/heed)

# pkg-config: -std=c++20 is the caller's
configure_file(cmake/heed.pc.in ${heed_build_dir}/heed.pc @ONLY)
install(FILES ${heed_build_dir}/heed.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)

# cmake --install BUILD --component doc: pages and examples; not part of a plain install
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/heed COMPONENT doc EXCLUDE_FROM_ALL)
install(DIRECTORY docs examples DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/heed COMPONENT doc EXCLUDE_FROM_ALL)

set_target_properties(heed_native PROPERTIES EXPORT_NAME native)
install(TARGETS heed heed_native EXPORT heed INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT heed NAMESPACE heed:: FILE heedTargets.cmake DESTINATION ${heed_package_dir})
