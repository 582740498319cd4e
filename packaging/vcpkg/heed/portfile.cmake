# SPDX-License-Identifier: BSD-3-Clause
# In the registry this is vcpkg_from_github(REPO, REF "v${VERSION}", SHA512 of the release). HEED_SOURCE names a checkout.
if(DEFINED ENV{HEED_SOURCE})
  set(SOURCE_PATH "$ENV{HEED_SOURCE}")
else()
  vcpkg_from_git(OUT_SOURCE_PATH SOURCE_PATH URL "$ENV{HEED_REPOSITORY}" REF "$ENV{HEED_COMMIT}")
endif()

set(VCPKG_BUILD_TYPE release)  # header only
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS -DHEED_BUILD_TESTS=OFF -DHEED_BUILD_BENCH=OFF -DHEED_BUILD_EXAMPLES=OFF -DHEED_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/heed)
vcpkg_fixup_pkgconfig()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
