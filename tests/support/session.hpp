// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace heed_test {

// Runs the tests that the arguments select; what main() returns.
int run_session(int argc, char** argv);

}  // namespace heed_test
