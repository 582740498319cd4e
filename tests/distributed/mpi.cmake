# SPDX-License-Identifier: BSD-3-Clause
# The verbs over ranks on MPI, with more ranks than cores. Left out where there is no MPI, or a sanitizer, which would
# report MPI's own leaks.
find_package(MPI QUIET COMPONENTS CXX)
if("distributed_mpi" MATCHES "${HEED_TEST_MATCH}" AND NOT "distributed_mpi" MATCHES "${HEED_TEST_SKIP}")
  if(NOT MPI_CXX_FOUND)
    message(STATUS "heed: distributed/mpi_ranks.cpp is left out: no MPI (Debian: libopenmpi-dev or libmpich-dev)")
  elseif(NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize=")
    list(GET heed_run_isas -1 isa)
    heed_add_objects(distributed_mpi_objects ${isa} distributed/mpi_ranks.cpp)
    target_link_libraries(distributed_mpi_objects PRIVATE MPI::MPI_CXX)
    add_executable(distributed_mpi $<TARGET_OBJECTS:distributed_mpi_objects>)
    target_link_libraries(distributed_mpi PRIVATE heed_test MPI::MPI_CXX)
    if(isa STREQUAL dispatch)
      target_link_libraries(distributed_mpi PRIVATE heed_dispatch)
    endif()
    set(flags)
    execute_process(COMMAND ${MPIEXEC_EXECUTABLE} --version OUTPUT_VARIABLE version ERROR_QUIET)
    if(version MATCHES "Open MPI|OpenRTE")  # refuses more ranks than cores, and root, unless told otherwise
      set(flags --oversubscribe --allow-run-as-root)
    endif()
    foreach(ranks 1 2 4 5)
      add_test(NAME distributed_mpi_${ranks}
        COMMAND ${MPIEXEC_EXECUTABLE} ${flags} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:distributed_mpi>)
      set_tests_properties(distributed_mpi_${ranks} PROPERTIES TIMEOUT 300 LABELS mpi RUN_SERIAL ON)
    endforeach()
  endif()
endif()
