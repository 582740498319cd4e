// SPDX-License-Identifier: BSD-3-Clause

// Catch2's main program.

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include "support/session.hpp"

namespace heed_test {

int run_session(int argc, char** argv) { return Catch::Session().run(argc, argv); }

}  // namespace heed_test
