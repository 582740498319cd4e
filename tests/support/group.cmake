# SPDX-License-Identifier: BSD-3-Clause
# cmake -P group.cmake OUTPUT SOURCE...: writes the translation unit OUTPUT that holds all SOURCEs. Their includes come
# first, once; then each file in a namespace of its own, so that equal names do not meet. A test file must therefore not
# open a namespace of others, and not include anything below its first lines under a condition.

math(EXPR last "${CMAKE_ARGC} - 1")
set(includes)
set(bodies)
foreach(i RANGE 4 ${last})
  set(source ${CMAKE_ARGV${i}})
  get_filename_component(name ${source} NAME_WE)
  file(STRINGS ${source} lines REGEX "^#include ")
  list(APPEND includes ${lines})
  string(APPEND bodies "namespace in_${name} {\n#include \"${source}\"\n}\n")
endforeach()
list(REMOVE_DUPLICATES includes)
list(JOIN includes "\n" includes)
file(WRITE ${CMAKE_ARGV3} "${includes}\n\n${bodies}")
