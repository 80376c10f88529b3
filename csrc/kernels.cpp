// Which kernels this processor runs. This file is compiled without flags of an instruction set, and nothing of a set's own
// file runs before the answer is known here: those files hold functions and constant tables of their addresses alone.
#include "available.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tapernet {
namespace {

#if defined(__x86_64__)
// These builtins also ask whether the system saves the set's registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

// Tiles of bytes, which the system saves for a process that asks (Linux 5.16 and later).
bool has_tiles() {
#if defined(__linux__)
  constexpr int kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM and its feature
  constexpr unsigned kTiles = 1u << 24, kBytes = 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool has = has_vnni() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTiles) && (d & kBytes);
  return has && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_vnni() { return false; }
bool has_tiles() { return false; }
#endif

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> found;
    const auto add = [&](const Kernels* table, bool runs) {
      if (table && runs) found.push_back(table);
    };
    add(amx_kernels, has_tiles());
    add(has_vnni() ? avx512_vnni_kernels : avx512_kernels, has_avx512());
    add(avx2_kernels, has_avx2());
    add(neon_kernels, true);  // null but on AArch64, whose processors all have it
    add(portable_kernels, true);
    return found;
  }();
  return available;
}

}  // namespace tapernet
