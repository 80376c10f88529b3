// Vectors of floats in the width that this translation unit is compiled for.
//
// gcc's and clang's vector extensions give arithmetic, comparison and selection in any width, so that one source serves
// SSE2, AVX2, AVX-512 and NEON. Only included by the kernels, inside their anonymous namespace's translation unit.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE__)
#include <immintrin.h>
#elif defined(TAPERNET_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRegisters = 16;
#elif defined(TAPERNET_NEON)
constexpr int kWidth = 4;
constexpr int kRegisters = 32;
#else
constexpr int kWidth = 4;
constexpr int kRegisters = 16;
#endif

template <int W>
struct Floats {
  typedef float Vec __attribute__((vector_size(4 * W)));
  typedef float Unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

  static inline Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static inline void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
  // Subtracting zero is exact, and compilers drop it; adding to zero would turn -0 into 0, and stay.
  static inline Vec all(float x) { return x - Vec{}; }
};

using Wide = Floats<kWidth>;
using Vec = Wide::Vec;
using Four = Floats<4>;

// Values below `low` become `low`, values above `high` become `high`, NaN stays, as in torch.
inline Vec clamp(Vec x, Vec low, Vec high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// Transposes the 4 x 4 floats in a, b, c, d.
inline void transpose(Four::Vec& a, Four::Vec& b, Four::Vec& c, Four::Vec& d) {
  const Four::Vec ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four::Vec ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four::Vec cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four::Vec cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// Sums of a vector's quarters of lanes: four numbers that add up to the sum of all its lanes.
inline Four::Vec fold(Floats<4>::Vec v) { return v; }
#if defined(__AVX2__)
inline Four::Vec fold(Floats<8>::Vec v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
#endif
#if defined(__AVX512F__)
inline Four::Vec fold(Floats<16>::Vec v) {
  return fold(Floats<8>::Vec(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)));
}
#endif

// Bit i tells whether lane i of a is below lane i of b; false where either is NaN.
inline unsigned below(Floats<4>::Vec a, Floats<4>::Vec b) {
#if defined(__SSE__)
  return static_cast<unsigned>(_mm_movemask_ps(_mm_cmplt_ps(a, b)));
#elif defined(TAPERNET_NEON)
  constexpr uint32x4_t kBits = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcltq_f32(a, b), kBits));
#else
  unsigned bits = 0;
  for (int i = 0; i < 4; ++i) bits |= static_cast<unsigned>(a[i] < b[i]) << i;
  return bits;
#endif
}
#if defined(__AVX2__)
inline unsigned below(Floats<8>::Vec a, Floats<8>::Vec b) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}
#endif
#if defined(__AVX512F__)
inline unsigned below(Floats<16>::Vec a, Floats<16>::Vec b) {
  return static_cast<unsigned>(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ));
}
#endif

}  // namespace
