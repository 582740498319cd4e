# SPDX-License-Identifier: BSD-3-Clause
"""Stands for the registry's xsimd, which cannot be had offline: packs the headers of the folder XSIMD_FOLDER."""
import os

from conan import ConanFile
from conan.tools.files import copy


class XsimdConan(ConanFile):
    name = "xsimd"
    package_type = "header-library"

    def package_id(self):
        self.info.clear()

    def package(self):
        folder = os.environ["XSIMD_FOLDER"]
        copy(self, "*.hpp", os.path.join(folder, "xsimd"), os.path.join(self.package_folder, "include/xsimd"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_target_name", "xsimd")
