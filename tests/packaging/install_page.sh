# SPDX-License-Identifier: BSD-3-Clause
# The lines of docs/install.md work as they stand there: each cmake block configures a project beside it, each compiler
# line compiles. consumer.sh and its sisters build and run the same ways; here the page is what is tested. Not run:
# the lines of vcpkg and Conan, which name what no registry has yet, and those that configure this whole project.

source "$SOURCE/tests/packaging/common.bash"
page=$SOURCE/docs/install.md
rm -rf page blocks
mkdir -p page/third_party page/cmake page/opt blocks
ln -s "$SOURCE" page/third_party/heed
ln -s "$SOURCE" page/heed
cp "$SOURCE/tests/packaging/consumer/CPM.cmake" page/cmake/
cp "$SOURCE/tests/packaging/consumer/merge.cpp" page/main.cpp
install page/opt/heed
cat > page/CMakeLists.txt <<'PROJECT'
cmake_minimum_required(VERSION 3.21)
project(page LANGUAGES CXX)
add_executable(app main.cpp)
foreach(block IN LISTS BLOCKS)
  include(${block})
endforeach()
get_target_property(libraries app LINK_LIBRARIES)
if(NOT TARGET heed::heed OR NOT "heed::heed" IN_LIST libraries)
  message(FATAL_ERROR "the page's lines do not link heed")
endif()
PROJECT

awk '
  /^```(cmake|sh) *$/ { file = "blocks/" ++n "." substr($1, 4); next }
  /^```/ { file = "" }
  file { print > file }' "$page"
link=$(grep -LE 'add_subdirectory|FetchContent|CPM|find_package' blocks/*.cmake)
[[ $(wc -l <<< "$link") == 1 && $link ]] || { echo "not one block that only links: $link"; exit 1; }

ways=0
for block in $(grep -lE 'add_subdirectory|FetchContent|CPM|find_package' blocks/*.cmake); do
  blocks="$PWD/$block"
  if ! grep -q target_link_libraries "$block"; then blocks+=";$PWD/$link"; fi
  "$CMAKE" -S page -B "with ${block//\//_}" -DCMAKE_CXX_COMPILER="$CXX" -DBLOCKS="$blocks" -DCPM_heed_SOURCE="$SOURCE" \
    -DFETCHCONTENT_SOURCE_DIR_HEED="$SOURCE" -DCMAKE_PREFIX_PATH="$PWD/page/opt/heed;$PREFIXES" > configure.log 2>&1 ||
    { cat "$block" configure.log; exit 1; }
  ways=$((ways + 1))
done
((ways == 4)) || { echo "$ways cmake blocks of the page were tried, not 4"; exit 1; }

cd page
export HOME=$PWD  # the page installs to ~/opt/heed
g++() { "$CXX" -fsyntax-only $THIRD_PARTY "$@"; }
ways=0
for block in $(grep -l '^g++ ' ../blocks/*.sh); do
  if grep -q pkg-config "$block" && ! command -v pkg-config > /dev/null; then continue; fi
  source "$block"
  ways=$((ways + 1))
done
((ways > 0)) || { echo "no compiler line was tried"; exit 1; }
echo "4 cmake blocks and $ways compiler lines"
