# SPDX-License-Identifier: BSD-3-Clause
# heed::warnings, for this project's own translation units only; never exported.
add_library(heed_warnings INTERFACE)
add_library(heed::warnings ALIAS heed_warnings)
target_compile_options(heed_warnings INTERFACE -Wall -Wextra -Wconversion -Wshadow -Wpedantic -Werror)
