// The kernels for any processor: SSE2 on x86-64, NEON on AArch64.
#include "kernel_table.h"

const tapernet::Kernels* tapernet::portable_kernels() {
  static constexpr Kernels kernels = make_kernels("portable");
  return &kernels;
}
