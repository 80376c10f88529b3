// The kernels for AVX2 and FMA; the build compiles this file with those flags where the compiler knows them.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "kernel_table.h"

namespace {
constexpr tapernet::Kernels kTable = make_kernels("avx2");
}
const tapernet::Kernels* const tapernet::avx2_kernels = &kTable;
#else
const tapernet::Kernels* const tapernet::avx2_kernels = nullptr;
#endif
