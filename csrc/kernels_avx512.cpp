// The kernels for AVX-512, with and without AMX; the build compiles this file with the flags of the former where the
// compiler knows them.
#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include "kernel_table.h"
#include "kernel_pieces.h"
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

#if defined(TAPERNET_TILES)
namespace {
template <int N>
const tapernet::Kernels* with_pieces(const char* name) {
  if (!tapernet::amx_kernels() || !multiplies_pieces()) return nullptr;
  static const tapernet::Kernels kernels = [&] {
    tapernet::Kernels made = *tapernet::amx_kernels();
    made.name = name;
    made.pieces = N;
    made.split = split<N>;
    made.gather = gather<N>;
    made.multiply = multiply<N>;
    made.cut = cut;
    return made;
  }();
  return &kernels;
}
}  // namespace
const tapernet::Kernels* tapernet::bf16x3_kernels() { return with_pieces<2>("amx-bf16x3"); }
const tapernet::Kernels* tapernet::bf16x6_kernels() { return with_pieces<3>("amx-bf16x6"); }
#else
const tapernet::Kernels* tapernet::bf16x3_kernels() { return nullptr; }
const tapernet::Kernels* tapernet::bf16x6_kernels() { return nullptr; }
#endif

#else
const tapernet::Kernels* tapernet::avx512_kernels() { return nullptr; }
const tapernet::Kernels* tapernet::amx_kernels() { return nullptr; }
const tapernet::Kernels* tapernet::bf16x3_kernels() { return nullptr; }
const tapernet::Kernels* tapernet::bf16x6_kernels() { return nullptr; }
#endif
