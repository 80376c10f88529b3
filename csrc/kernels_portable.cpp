// The kernels for any processor, in vectors of four and sixteen registers; on x86-64 that is SSE2.
#include "kernel_table.h"

namespace {
constexpr tapernet::Kernels kTable = make_kernels("portable");
}
const tapernet::Kernels* const tapernet::portable_kernels = &kTable;
