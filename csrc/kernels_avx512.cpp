// The kernels for AVX-512, alone, with VNNI and with AMX; the build compiles this file with the flags of the first, and
// the functions that need the others name them.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "kernel_table.h"
#include "kernel_tiles.h"

namespace {

constexpr tapernet::Kernels with_bytes(const char* name, void (*rounded_sums)(const tapernet::RoundedCall&)) {
  tapernet::Kernels made = make_kernels(name);
  made.multiplies_bytes = true;
  made.rounded_sums = rounded_sums;
  return made;
}

constexpr tapernet::Kernels kTable = make_kernels("avx512"), kVnni = with_bytes("avx512", rounded_sums_vnni);
#if defined(TAPERNET_TILES)
constexpr tapernet::Kernels kTiles = with_bytes("amx", rounded_sums_tiles);
#endif

}  // namespace

const tapernet::Kernels* const tapernet::avx512_kernels = &kTable;
const tapernet::Kernels* const tapernet::avx512_vnni_kernels = &kVnni;
#else
const tapernet::Kernels* const tapernet::avx512_kernels = nullptr;
const tapernet::Kernels* const tapernet::avx512_vnni_kernels = nullptr;
#endif

#if defined(TAPERNET_TILES)
const tapernet::Kernels* const tapernet::amx_kernels = &kTiles;
#else
const tapernet::Kernels* const tapernet::amx_kernels = nullptr;
#endif
