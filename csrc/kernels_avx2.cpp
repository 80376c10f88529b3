// The kernels for AVX2 and FMA; the build compiles this file with those flags where the compiler knows them.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "kernel_table.h"

const tapernet::Kernels* tapernet::avx2_kernels() {
  static constexpr Kernels kernels = make_kernels("avx2");
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : nullptr;
}
#else
const tapernet::Kernels* tapernet::avx2_kernels() { return nullptr; }
#endif
