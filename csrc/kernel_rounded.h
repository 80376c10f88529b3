// Sums of products of bytes, which tell the sign of nearly every output of a convolution before it is computed, and may
// stand for the small ones.
//
// Where the processor multiplies bytes (AVX-512 VNNI), such a sum takes a quarter of the products' time or less. The
// others have a plain loop, so that every processor gives the same results; an engine that times its layers will hardly
// choose it.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"
#include "simd.h"

namespace {

void range(const float* in, ptrdiff_t count, float* low, float* high) {
  Vec least{}, most{}, odd{};
  for (ptrdiff_t i = 0; i < count; i += kWidth) {
    const Vec x = Wide::load(in + i);
    least = x < least ? x : least;
    most = x > most ? x : most;
    odd += x - x;  // zero unless x is infinite or no number
  }
  *low = *high = 0;
  for (int i = 0; i < kWidth; ++i) {
    *low = least[i] < *low ? least[i] : *low;
    *high = most[i] > *high ? most[i] : *high;
    if (odd[i] != 0) *high = INFINITY;  // true for NaN
  }
}

#if defined(__AVX512F__)
// All lanes, for the masked forms of instructions: gcc 12 warns of the others' undefined lanes, of which there are none.
constexpr __mmask16 kAll = 0xffff;
#endif

void round_to_bytes(const float* in, ptrdiff_t count, float scale, int zero, uint8_t* out) {
#if defined(__AVX512F__)
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512i shift = _mm512_set1_epi32(zero), none = _mm512_setzero_si512();
  for (ptrdiff_t i = 0; i < count; i += 16) {
    const __m512i whole = _mm512_maskz_cvtps_epi32(kAll, _mm512_mul_ps(_mm512_loadu_ps(in + i), factor));
    const __m512i x = _mm512_maskz_max_epi32(kAll, _mm512_add_epi32(whole, shift), none);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_maskz_cvtusepi32_epi8(kAll, x));
  }
#else
  for (ptrdiff_t i = 0; i < count; ++i) {
    const float x = std::nearbyint(in[i] * scale) + static_cast<float>(zero);
    out[i] = static_cast<uint8_t>(x > 255 ? 255 : x > 0 ? x : 0);
  }
#endif
}

constexpr int kBytePixels = 8;  // together, with up to three vectors of filters

// Adds the products of one pixel with 16 filters.
inline void add_products(const tapernet::RoundedCall& c, int pixel, const int8_t* weights,
                         int32_t (&sum)[tapernet::kLanes]) {
  for (int s = 0; s < c.segment_count; ++s) {
    const uint8_t* in = c.input + c.pixels[pixel] + c.segments[s].input;
    const int8_t* w = weights + c.segments[s].weight;
    for (int k = 0; k < c.segments[s].length; k += 4, w += 4 * tapernet::kLanes) {
      for (int f = 0; f < tapernet::kLanes; ++f) {
        for (int i = 0; i < 4; ++i) sum[f] += in[k + i] * w[4 * f + i];
      }
    }
  }
}

inline float* place_of(const tapernet::Worth& w, int block, int pixel) {
  return w.emitted + (static_cast<ptrdiff_t>(block) * tapernet::kTilePixels + w.places[pixel]) * tapernet::kLanes;
}

void rounded_sums(const tapernet::RoundedCall& c) {
  for (int block = 0; block < c.blocks; ++block) {
    uint64_t* const alive = c.alive + block * tapernet::kLanes;
    for (int f = 0; f < tapernet::kLanes; ++f) alive[f] = 0;
    for (int pixel = 0; pixel < c.count; ++pixel) {
      int32_t sum[tapernet::kLanes] = {};
      add_products(c, pixel, c.weights + block * c.weight_stride, sum);
      for (int f = 0; f < tapernet::kLanes; ++f) {
        const int filter = block * tapernet::kLanes + f;
        alive[f] |= static_cast<uint64_t>(sum[f] >= c.least[filter]) << pixel;
        if (!c.worth.emitted) continue;
        place_of(c.worth, block, pixel)[f] =
            static_cast<float>(sum[f] - c.worth.zeros[filter]) * c.worth.factors[filter] + c.worth.start[filter];
      }
    }
  }
}

#if defined(__AVX512F__) && defined(__AVX512BW__)
// Registers of an array hold this type; __m512i, which may alias others, they hold only beside a copy in memory.
typedef int32_t Sums __attribute__((vector_size(64)));

// What the sums of a block of filters, [pixel][16 filters], are worth, for so many pixels from the first on.
inline void emit(const tapernet::Worth& w, int block, int first, int count, const int32_t* sums) {
  const ptrdiff_t filter = static_cast<ptrdiff_t>(block) * tapernet::kLanes;
  const __m512i zeros = _mm512_loadu_si512(w.zeros + filter);
  const Vec factors = Wide::load(w.factors + filter), start = Wide::load(w.start + filter);
  for (int p = 0; p < count; ++p) {
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + p * tapernet::kLanes), zeros);
    const Vec whole = Vec(_mm512_maskz_cvtepi32_ps(kAll, sum));
    Wide::store(place_of(w, block, first + p), whole * factors + start);
  }
}

// Three blocks of filters or fewer over all pixels. `stopped` takes for each block and pixel a bit for each filter.
template <int V>
__attribute__((target("avx512vnni"))) void byte_products(const tapernet::RoundedCall& c, int block,
                                                         uint16_t (&stopped)[3][tapernet::kTilePixels]) {
  const int8_t* const weights = c.weights + block * c.weight_stride;
  const tapernet::Segment* const end = c.segments + c.segment_count;
  for (int pixel = 0; pixel < c.count; pixel += kBytePixels) {
    const uint8_t* in[kBytePixels];
    Sums sum[kBytePixels][V];
#pragma GCC unroll 8
    for (int p = 0; p < kBytePixels; ++p) {
      in[p] = c.input + c.pixels[pixel + p];
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[p][v] = Sums{};
    }
    for (const tapernet::Segment* s = c.segments; s < end; ++s) {
      const int8_t* const w = weights + s->weight;
      const ptrdiff_t from = s->input;
      for (int k = 0; k < s->length; k += 4) {
        Sums of_filters[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
          const int8_t* of_block = w + v * c.weight_stride + static_cast<ptrdiff_t>(k) * tapernet::kLanes;
          of_filters[v] = Sums(_mm512_loadu_si512(of_block));
        }
#pragma GCC unroll 8
        for (int p = 0; p < kBytePixels; ++p) {
          int32_t four;
          std::memcpy(&four, in[p] + from + k, sizeof four);
          const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) {
            sum[p][v] = Sums(_mm512_dpbusd_epi32(__m512i(sum[p][v]), x, __m512i(of_filters[v])));
          }
        }
      }
    }
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const __m512i least = _mm512_loadu_si512(c.least + (block + v) * tapernet::kLanes);
#pragma GCC unroll 8
      for (int p = 0; p < kBytePixels; ++p) stopped[v][pixel + p] = _mm512_cmplt_epi32_mask(__m512i(sum[p][v]), least);
    }
    if (!c.worth.emitted) continue;
    const int left = c.count - pixel < kBytePixels ? c.count - pixel : kBytePixels;
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      int32_t of_block[kBytePixels * tapernet::kLanes];
#pragma GCC unroll 8
      for (int p = 0; p < kBytePixels; ++p) _mm512_storeu_si512(of_block + p * tapernet::kLanes, __m512i(sum[p][v]));
      emit(c.worth, block + v, pixel, left, of_block);
    }
  }
}

// Of 32 pixels, which do not stop in a filter: a bit for each, from a bit for each filter by pixel.
inline uint64_t going_on(__m512i stopped, int filter) {
  return _mm512_testn_epi16_mask(stopped, _mm512_set1_epi16(static_cast<short>(1 << filter)));
}

// From a bit for each filter, by pixel, to a bit for each pixel, by filter.
inline void turn(const uint16_t (&stopped)[tapernet::kTilePixels], uint64_t* alive) {
  const __m512i first = _mm512_loadu_si512(stopped), second = _mm512_loadu_si512(stopped + 32);
  for (int f = 0; f < tapernet::kLanes; ++f) alive[f] = going_on(first, f) | going_on(second, f) << 32;
}

void rounded_sums_vnni(const tapernet::RoundedCall& c) {
  uint16_t stopped[3][tapernet::kTilePixels] = {};
  const int turns = (c.blocks + 2) / 3, together = (c.blocks + turns - 1) / turns;
  for (int block = 0; block < c.blocks; block += together) {
    const int count = c.blocks - block < together ? c.blocks - block : together;
    if (count == 1) byte_products<1>(c, block, stopped);
    if (count == 2) byte_products<2>(c, block, stopped);
    if (count == 3) byte_products<3>(c, block, stopped);
    for (int v = 0; v < count; ++v) turn(stopped[v], c.alive + (block + v) * tapernet::kLanes);
  }
}
#endif

}  // namespace
