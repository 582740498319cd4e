# SPDX-License-Identifier: BSD-3-Clause
# Every header compiles as the only include of a translation unit, without a warning. Those of interop/ need what they
# adapt: they are left out where it is not here, and no other header includes them.

compile() { $CXX -x c++ - -std=c++20 -I "$SOURCE/include" $THIRD_PARTY "$@"; }   # what stdin says
warnings="-Wall -Wextra -Wconversion -Wsign-conversion -Wfloat-equal -Wshadow -Wpedantic"
check() {
  echo "#include \"$1\"" | compile -fsyntax-only $warnings -Werror "${@:2}" ||
    { echo "does not stand alone: $1"; return 1; }
}
here() { echo "#include <$1>" | compile -E "${@:2}" > /dev/null 2>&1; }
export -f compile check
export warnings

# The headers that include xsimd, directly or not, get it compiled once: it is most of what there is to compile.
echo '#include <xsimd/xsimd.hpp>' > xsimd.hpp
$CXX -std=c++20 $warnings $THIRD_PARTY -x c++-header xsimd.hpp -o xsimd.hpp.gch
precompiled=$PWD/xsimd.hpp

cd "$SOURCE/include"
find heed -name '*.hpp' ! -path '*/interop/*' | sort > "$OLDPWD/all.txt"
grep -rl '#include <xsimd/' heed | sort > "$OLDPWD/found.txt"
known=
while [[ $(< "$OLDPWD/found.txt") != "$known" ]]; do
  known=$(< "$OLDPWD/found.txt")
  sed 's/.*/#include "&"/' <<< "$known" | grep -rlFf - heed | sort -u - "$OLDPWD/found.txt" -o "$OLDPWD/found.txt"
done
cd - > /dev/null
comm -13 found.txt all.txt > without.txt
comm -12 found.txt all.txt > with.txt
xargs -a with.txt -P "$(nproc)" -I {} bash -c "check {} -include $precompiled"
xargs -a without.txt -P "$(nproc)" -I {} bash -c 'check {}'
echo "$(wc -l < with.txt) headers with xsimd, $(wc -l < without.txt) without"

if here omp.h -fopenmp; then
  check heed/interop/openmp.hpp -fopenmp
else
  echo "no OpenMP with this compiler: heed/interop/openmp.hpp is left out"
fi
if here Eigen/ThreadPool || here unsupported/Eigen/CXX11/ThreadPool; then
  check heed/interop/eigen_thread_pool.hpp
else
  echo "no ThreadPool module of Eigen: heed/interop/eigen_thread_pool.hpp is left out"
fi

mpi_flags=()
if read -r -a words < <(mpicxx -show 2> /dev/null); then
  for word in "${words[@]:1}"; do [[ $word == -I* ]] && mpi_flags+=(-isystem "${word#-I}"); done
fi
if here mpi.h "${mpi_flags[@]}"; then
  check heed/interop/mpi.hpp "${mpi_flags[@]}"
else
  echo "no MPI: heed/interop/mpi.hpp is left out"
fi

if said=$(echo '#include "heed/interop/openmp.hpp"' | compile -fsyntax-only 2>&1); then
  echo "heed/interop/openmp.hpp compiles without OpenMP"
  exit 1
fi
grep -F 'compile with -fopenmp' > /dev/null <<< "$said" || { echo "does not say what it needs: $said"; exit 1; }

includes=$(echo '#include "heed/heed.hpp"' | compile -M)
if grep -F heed/interop/ <<< "$includes"; then
  echo "heed/heed.hpp includes an executor"
  exit 1
fi
