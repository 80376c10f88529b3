// The kernels for AVX-512, with and without AMX; the build compiles this file with the flags of the former where the
// compiler knows them.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include "kernel_table.h"
#include "kernel_halves.h"
#include "kernel_tiles.h"

const tapernet::Kernels* tapernet::avx512_kernels() {
  static const Kernels kernels = [] {
    Kernels made = make_kernels("avx512");
    made.multiplies_bytes = __builtin_cpu_supports("avx512vnni");
    if (made.multiplies_bytes) made.rounded_sums = rounded_sums_vnni;
    return made;
  }();
  const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has ? &kernels : nullptr;
}

const tapernet::Kernels* tapernet::amx_kernels() {
#if defined(TAPERNET_TILES)
  if (!avx512_kernels() || !may_use_tiles()) return nullptr;
  static const Kernels kernels = [] {
    Kernels made = make_kernels("amx");
    made.multiplies_bytes = true;
    made.rounded_sums = rounded_sums_tiles;
    return made;
  }();
  return &kernels;
#else
  return nullptr;
#endif
}

const tapernet::Kernels* tapernet::bf16x3_kernels() {
#if defined(TAPERNET_TILES)
  if (!amx_kernels() || !multiplies_halves()) return nullptr;
  static const Kernels kernels = [] {
    Kernels made = *amx_kernels();
    made.name = "amx-bf16x3";
    made.split = split;
    made.gather = gather;
    made.multiply = multiply;
    return made;
  }();
  return &kernels;
#else
  return nullptr;
#endif
}
#else
const tapernet::Kernels* tapernet::avx512_kernels() { return nullptr; }
const tapernet::Kernels* tapernet::amx_kernels() { return nullptr; }
const tapernet::Kernels* tapernet::bf16x3_kernels() { return nullptr; }
#endif
