# SPDX-License-Identifier: BSD-3-Clause
import re
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.layout import basic_layout
from conan.tools.files import copy

ROOT = Path(__file__).resolve().parent.parent.parent


class HeedConan(ConanFile):
    name = "heed"
    description = "CPU attention kernels, header only"
    license = "BSD-3-Clause"
    topics = ("attention", "transformer", "simd", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"reference": [True, False]}
    default_options = {"reference": False}
    no_copy_source = True

    def set_version(self):
        text = (ROOT / "include/heed/version.hpp").read_text()
        self.version = self.version or ".".join(re.findall(r"#define HEED_VERSION_\w+ (\d+)", text))

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "cmake/*"):
            copy(self, pattern, ROOT, self.export_sources_folder)

    def requirements(self):
        self.requires("xsimd/[>=8.1]", transitive_headers=True)
        if self.options.reference:
            self.requires("eigen/[>=3.4]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        basic_layout(self, src_folder=".")

    def package(self):
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")
        copy(self, "*.hpp", Path(self.source_folder) / "include", Path(self.package_folder) / "include")

    def package_info(self):
        self.cpp_info.bindirs, self.cpp_info.libdirs = [], []
        self.cpp_info.set_property("cmake_file_name", "heed")
        self.cpp_info.set_property("cmake_target_name", "heed::heed")
        self.cpp_info.set_property("pkg_config_name", "heed")
