// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// AMX instructions on a machine that has none: the signal of an illegal instruction decodes them by the manual and
// carries them out on tiles in memory. So the operands, strides and the palette of compiled code are tested anywhere.

#if defined(__x86_64__) && defined(__linux__)
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <sys/ucontext.h>

namespace heed_test {

struct trapped_tiles {
  std::uint8_t config[64] = {};
  std::uint32_t tile[8][16][16] = {};
  // tdpbf16ps on three tiles: how is the caller's
  void (*dot)(std::uint32_t (*c)[16], const std::uint32_t (*a)[16], const std::uint32_t (*b)[16]) = nullptr;
  long loads = 0, stores = 0, zeros = 0, dots = 0, configures = 0, releases = 0;
  const char* problem = nullptr;
};

// While an object lives, this process runs AMX instructions on `tiles`.
class amx_trap {
 public:
  explicit amx_trap(trapped_tiles& tiles) {
    current() = &tiles;
    struct sigaction act {};
    act.sa_sigaction = on_signal, act.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &act, &before_);
  }
  ~amx_trap() { sigaction(SIGILL, &before_, nullptr); }
  amx_trap(const amx_trap&) = delete;
  amx_trap& operator=(const amx_trap&) = delete;

 private:
  static trapped_tiles*& current() {
    static trapped_tiles* tiles = nullptr;
    return tiles;
  }

  static std::uint64_t reg(const ucontext_t* context, int number) {
    constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<std::uint64_t>(context->uc_mcontext.gregs[order[number]]);
  }

  // One instruction with a three-byte VEX prefix of the map 0F 38
  struct instruction {
    const std::uint8_t* code;
    int prefix, opcode, mod, to, from, third;  // none, 66, F3, F2; ModRM.mod, .reg, .rm; VEX.vvvv
    std::uint64_t base = 0, stride = 0;        // of the memory operand
    int length = 5;

    instruction(const std::uint8_t* p, const ucontext_t* context)
        : code(p),
          prefix(p[2] & 3),
          opcode(p[3]),
          mod(p[4] >> 6),
          to(p[4] >> 3 & 7),
          from(p[4] & 7),
          third(~p[2] >> 3 & 15) {
      if (mod == 3) return;
      const int high_base = (~p[1] >> 5 & 1) * 8, high_index = (~p[1] >> 6 & 1) * 8;
      int base_number = from + high_base;
      if (from == 4) {
        const int sib = p[length++], index = (sib >> 3 & 7) + high_index;
        base_number = (sib & 7) + high_base;
        if (index != 4) stride = reg(context, index) << (sib >> 6);
      }
      std::int32_t offset = 0;
      const bool no_base = mod == 0 && (base_number & 7) == 5;
      if (mod == 1) offset = static_cast<std::int8_t>(p[length++]);
      if (mod == 2 || no_base) std::memcpy(&offset, p + length, 4), length += 4;
      if (no_base)  // relative to the next instruction
        base = reinterpret_cast<std::uint64_t>(p + length);
      else
        base = reg(context, base_number);
      base += static_cast<std::uint64_t>(std::int64_t{offset});
    }
    bool is(int op, int pp, bool memory) const { return opcode == op && prefix == pp && (mod != 3) == memory; }
  };

  static bool whole_tiles(const std::uint8_t* config) {  // palette 1, all tiles of 16 rows of 64 bytes
    bool whole = config[0] == 1 && config[1] == 0;
    for (int i = 0; i < 8; ++i)
      whole = whole && config[16 + 2 * i] == 64 && config[17 + 2 * i] == 0 && config[48 + i] == 16;
    return whole;
  }

  static void run(trapped_tiles& t, const instruction& x) {
    if (x.is(0x49, 0, true)) {
      std::memcpy(t.config, reinterpret_cast<const void*>(x.base), 64), ++t.configures;
      return;
    }
    if (!whole_tiles(t.config)) t.problem = "tiles are used that are not configured";
    if (x.is(0x49, 0, false) && x.to == 0 && x.from == 0) {
      std::memset(t.config, 0, 64), ++t.releases;
    } else if (x.is(0x49, 3, false)) {
      std::memset(t.tile[x.to], 0, 1024), ++t.zeros;
    } else if (x.is(0x4b, 3, true) && x.from == 4) {
      for (std::uint64_t m = 0; m < 16; ++m)
        std::memcpy(t.tile[x.to][m], reinterpret_cast<const void*>(x.base + m * x.stride), 64);
      ++t.loads;
    } else if (x.is(0x4b, 2, true) && x.from == 4) {
      for (std::uint64_t m = 0; m < 16; ++m)
        std::memcpy(reinterpret_cast<void*>(x.base + m * x.stride), t.tile[x.to][m], 64);
      ++t.stores;
    } else if (x.is(0x5c, 2, false)) {
      if (x.to == x.from || x.to == x.third || x.from == x.third) t.problem = "tdpbf16ps of a tile with itself";
      t.dot(t.tile[x.to], t.tile[x.from], t.tile[x.third]), ++t.dots;
    } else {
      t.problem = "an instruction that is not AMX of bf16";
    }
  }

  static void on_signal(int, siginfo_t*, void* opaque) {
    auto* context = static_cast<ucontext_t*>(opaque);
    const auto* code = reinterpret_cast<const std::uint8_t*>(context->uc_mcontext.gregs[REG_RIP]);
    const bool vex = code[0] == 0xc4 && (code[1] & 31) == 2 && (code[2] & 0x84) == 0;  // 0F 38, W0, 128 bits
    if (!vex) std::abort();
    const instruction x(code, context);
    run(*current(), x);
    context->uc_mcontext.gregs[REG_RIP] += x.length;
  }

  struct sigaction before_ {};
};

}  // namespace heed_test
#endif
