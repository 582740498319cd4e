# SPDX-License-Identifier: BSD-3-Clause
# Every ```cpp block of README and docs compiles. A block with an #include is a translation unit of its own; any other
# is the body of a function after the prelude below, together with the other such blocks of its page.

rm -rf units && mkdir units
cat >units/prelude.hpp <<'PRELUDE'
#include <heed/heed.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

using input = heed::tensor_view<const float, 4>;
using output = heed::tensor_view<float, 4>;
using per_row = heed::tensor_view<float, 3>;
#define PAGE_ARGUMENTS                                                                                            \
  [[maybe_unused]] input q, [[maybe_unused]] input k, [[maybe_unused]] input v, [[maybe_unused]] output o,        \
      [[maybe_unused]] per_row lse, [[maybe_unused]] output part, [[maybe_unused]] per_row part_lse,              \
      [[maybe_unused]] heed::context context
PRELUDE

compile() {
  $CXX -std=c++20 -Wall -Wextra -Wconversion -Wshadow -Werror -I "$SOURCE/include" -I units $THIRD_PARTY "$@"
}
compile -x c++-header units/prelude.hpp -o units/prelude.hpp.gch

cd "$SOURCE"
pages=(README.md)
while IFS= read -r page; do pages+=("$page"); done < <(find docs -name '*.md' | sort)
cd - >/dev/null

blocks=0
for page in "${pages[@]}"; do
  name=${page//\//_}
  awk -v page="$page" -v stem="units/${name%.md}" '
    function flush() {
      if (body ~ /(^|\n)#include/) {
        unit = stem "_" start ".cpp"
        printf "#line %d \"%s\"\n%s", start, page, body > unit
      } else {
        unit = stem ".cpp"
        printf "void line_%d(PAGE_ARGUMENTS);\nvoid line_%d(PAGE_ARGUMENTS) {\n#line %d \"%s\"\n%s}\n", \
          start, start, start, page, body > unit
      }
    }
    /^```cpp *$/ { inside = 1; start = NR + 1; body = ""; next }
    /^```/ && inside { inside = 0; flush(); next }
    inside { body = body $0 "\n" }
    END { if (inside) { print page ": a block does not end"; exit 1 } }
  ' "$SOURCE/$page"
  blocks=$((blocks + $(grep -c '^```cpp *$' "$SOURCE/$page" || true)))
done
((blocks > 0)) || { echo "no blocks found"; exit 1; }

for unit in units/*.cpp; do
  echo "$unit"
  prelude=(-include units/prelude.hpp)
  if grep -q '^#include' "$unit"; then prelude=(); fi
  compile -fsyntax-only "${prelude[@]}" "$unit"
done
echo "$blocks blocks of ${#pages[@]} pages"
