// The kernels for AArch64, whose processors all have NEON and 32 registers; what is not AArch64 has none.
#include "kernels.h"

#if defined(__aarch64__) && defined(__ARM_NEON)
#define TAPERNET_NEON
#include "kernel_table.h"

namespace {
constexpr tapernet::Kernels kTable = make_kernels("neon");
}
const tapernet::Kernels* const tapernet::neon_kernels = &kTable;
#else
const tapernet::Kernels* const tapernet::neon_kernels = nullptr;
#endif
