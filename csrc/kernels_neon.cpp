// The kernels for AArch64, whose processors all have NEON and 32 registers; what is not AArch64 has none.
#include "kernels.h"

#if defined(__aarch64__) && defined(__ARM_NEON)
#define TAPERNET_NEON
#include "kernel_table.h"

const tapernet::Kernels* tapernet::neon_kernels() {
  static constexpr Kernels kernels = make_kernels("neon");
  return &kernels;
}
#else
const tapernet::Kernels* tapernet::neon_kernels() { return nullptr; }
#endif
