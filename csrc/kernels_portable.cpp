// The kernels for any processor, in vectors of four and sixteen registers; on x86-64 that is SSE2.
#include "kernel_table.h"

const tapernet::Kernels* tapernet::portable_kernels() {
  static constexpr Kernels kernels = make_kernels("portable");
  return &kernels;
}
