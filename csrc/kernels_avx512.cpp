// The kernels for AVX-512; the build compiles this file with those flags where the compiler knows them.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include "kernel_table.h"

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
#else
const tapernet::Kernels* tapernet::avx512_kernels() { return nullptr; }
#endif
