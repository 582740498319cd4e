// SPDX-License-Identifier: BSD-3-Clause

// The translation unit that brings precompiled.hpp into being. It has nothing of its own.
