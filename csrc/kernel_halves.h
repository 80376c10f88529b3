// Sums of products of floats by the processor's matrix unit (AMX), which multiplies numbers of two bytes (bfloat16).
//
// A float is the sum of a high half, its nearest bfloat16, and a low half, the nearest one to what is left. The product of
// two floats is then that of the high halves and the two of a high and a low half; what is left out, the product of the
// low halves and what a low half cannot hold, is 2^-16 of it at most. Three products by tiles take a fifth of the time of
// one by vectors.
#pragma once

#include "kernel_tiles.h"

#if defined(TAPERNET_TILES)

namespace {

#define TAPERNET_HALVES __attribute__((target("amx-tile,amx-bf16,avx512bf16")))

constexpr int kTileProducts = tapernet::kHalvesProducts;
constexpr int kAhead = 4 * kTileProducts * tapernet::kLanes;  // floats that weights from far are fetched before their turn

// Whether the processor multiplies tiles of bfloat16, and vectors have the conversion.
bool multiplies_halves() {
  constexpr unsigned kTilesOfHalves = 1u << 22, kConversion = 1u << 5;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTilesOfHalves)) return false;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kConversion);
}

struct Pair {
  __m256i high, low;
};

TAPERNET_HALVES inline Pair halves(__m512 x) {
  constexpr __mmask16 kAll = 0xffff;  // the masked forms, all lanes of them: see round_to_bytes
  const __m256i high = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  const __m512i back = _mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, high), 16);
  const __m512 rest = x - _mm512_castsi512_ps(back);
  return {high, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(rest))};
}

TAPERNET_HALVES void split(const tapernet::SplitCall& c) {
  uint16_t* high = c.output.data;
  for (int i = 0; i < c.vectors; ++i, high += c.pitch) {
    const Pair x = halves(_mm512_loadu_ps(c.input + i * 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), x.high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + c.output.low), x.low);
  }
}

// The first `count` of 32 halves, zeros after them.
inline __m512i first_of(const uint16_t* from, int count) {
  const __mmask32 lanes = count < kTileProducts ? (__mmask32{1} << count) - 1 : ~__mmask32{0};
  return _mm512_maskz_loadu_epi16(lanes, from);
}

inline void put(uint16_t* high, ptrdiff_t low, __m512i of_high, __m512i of_low) {
  _mm512_storeu_si512(high, of_high);
  _mm512_storeu_si512(high + low, of_low);
}

void gather(const tapernet::GatherCall& c) {
  const __m512i zeros = _mm512_setzero_si512();
  const ptrdiff_t low = c.rows.low, low_of_input = c.low;
  const tapernet::Segment* const end = c.segments + c.segment_count;
  for (int p = 0; p < c.pixels; ++p) {
    uint16_t* const row = c.rows.data + p * c.stride;
    int at = 0;
    for (const tapernet::Segment* s = c.segments; s < end; ++s) {
      for (; at < s->weight; at += kTileProducts) put(row + at, low, zeros, zeros);
      at = s->weight;
      const uint16_t* in = c.inputs[p] + s->input;
      // The zeros after the last of them may lie where the next segment goes.
      for (int left = s->length; left > 0; left -= kTileProducts, in += kTileProducts, at += kTileProducts) {
        put(row + at, low, first_of(in, left), first_of(in + low_of_input, left));
      }
    }
    for (const int length = c.length; at < length; at += kTileProducts) put(row + at, low, zeros, zeros);
  }
}

// Sums of some tiles of pixels with some blocks of filters, in memory.
struct Written {
  const float* data = nullptr;
  ptrdiff_t next_block = 0;  // floats
  int tile = 0, tiles = 0, block = 0, blocks = 0;
};

// Sums, through scale, shift and clamp, to where their pixels lie.
inline void write(const tapernet::HalvesCall& c, const Written& s) {
  const Vec low = Wide::all(c.low_bound), high = Wide::all(c.high_bound);
  for (int b = 0; b < s.blocks; ++b) {
    const ptrdiff_t filter = (s.block + b) * tapernet::kLanes, at = (s.block + b) * c.output_stride;
    const Vec scale = Wide::load(c.scale + filter), shift = Wide::load(c.shift + filter);
    for (int t = 0; t < s.tiles; ++t) {
      const float* from = s.data + b * s.next_block + t * kTileFloats;
      float* const* const outputs = c.outputs + (s.tile + t) * c.tile_pixels;
      for (int p = 0, count = c.pixels[s.tile + t]; p < count; ++p, from += tapernet::kLanes) {
        Wide::store(outputs[p] + at, clamp(Wide::load(from) * scale + shift, low, high));
      }
    }
  }
}

// P tiles of pixels and F blocks of filters. Tiles 0 to 3 of the processor hold sums, 4 and 5 weights, 6 and 7 inputs.
// While it multiplies, the sums of the call before are written.
template <int P, int F>
TAPERNET_HALVES void multiply_tiles(const tapernet::HalvesCall& c, int tile, int block, Written& before) {
  constexpr ptrdiff_t kPair = 2 * kTileBytes;  // bytes from one pair of products to the next: high halves, low ones
  constexpr int kLow = kTileBytes / sizeof(float);
  const ptrdiff_t row = c.stride * static_cast<ptrdiff_t>(sizeof(uint16_t)), low = c.low;
  const uint16_t *const in = c.tiles[tile], *const more = c.tiles[tile + P - 1];
  const float* const weights = c.weights + block * c.weight_stride;
  const ptrdiff_t weight_stride = c.weight_stride;
  // Sums that are whole at once need no place of their own, but not that of the ones before.
  const bool whole = c.first && c.last;
  const ptrdiff_t next_block = static_cast<ptrdiff_t>(whole ? P : c.tile_count) * kTileFloats;
  float* sums = c.sums;
  if (!whole) sums += (block - c.begin) * next_block + static_cast<ptrdiff_t>(tile) * kTileFloats;
  if (whole && before.data == sums) sums += 4 * kTileFloats;
  if (c.first) {
    _tile_zero(0);
    if constexpr (F == 2) _tile_zero(1);
    if constexpr (P == 2) _tile_zero(2);
    if constexpr (P == 2 && F == 2) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kTileBytes);
    if constexpr (F == 2) _tile_loadd(1, sums + next_block, kTileBytes);
    if constexpr (P == 2) _tile_loadd(2, sums + kTileFloats, kTileBytes);
    if constexpr (P == 2 && F == 2) _tile_loadd(3, sums + next_block + kTileFloats, kTileBytes);
  }
  const bool fetches = c.far && tile == 0;
  for (const tapernet::Segment *run = c.runs, *const end = run + c.run_count; run < end; ++run) {
    const uint16_t *x = in + run->input, *y = more + run->input;
    const float *w = weights + run->weight, *v = w + weight_stride;
    for (int k = run->length; k > 0; k -= kTileProducts) {
      if (fetches) {
        for (int i = 0; i < kTileProducts * tapernet::kLanes; i += kTileBytes / sizeof(float)) {
          __builtin_prefetch(w + kAhead + i, 0, 3);
          if constexpr (F == 2) __builtin_prefetch(v + kAhead + i, 0, 3);
        }
      }
      _tile_loadd(4, w, kPair);
      _tile_loadd(6, x + low, row);
      _tile_dpbf16ps(0, 6, 4);
      if constexpr (F == 2) _tile_loadd(5, v, kPair);
      if constexpr (F == 2) _tile_dpbf16ps(1, 6, 5);
      if constexpr (P == 2) _tile_loadd(7, y + low, row);
      if constexpr (P == 2) _tile_dpbf16ps(2, 7, 4);
      if constexpr (P == 2 && F == 2) _tile_dpbf16ps(3, 7, 5);
      _tile_loadd(6, x, row);
      _tile_dpbf16ps(0, 6, 4);
      if constexpr (F == 2) _tile_dpbf16ps(1, 6, 5);
      if constexpr (P == 2) _tile_loadd(7, y, row);
      if constexpr (P == 2) _tile_dpbf16ps(2, 7, 4);
      if constexpr (P == 2 && F == 2) _tile_dpbf16ps(3, 7, 5);
      _tile_loadd(4, w + kLow, kPair);
      _tile_dpbf16ps(0, 6, 4);
      if constexpr (P == 2) _tile_dpbf16ps(2, 7, 4);
      if constexpr (F == 2) _tile_loadd(5, v + kLow, kPair);
      if constexpr (F == 2) _tile_dpbf16ps(1, 6, 5);
      if constexpr (P == 2 && F == 2) _tile_dpbf16ps(3, 7, 5);
      x += kTileProducts;
      y += kTileProducts;
      w += kTileProducts * tapernet::kLanes;
      v += kTileProducts * tapernet::kLanes;
    }
  }
  write(c, before);
  _tile_stored(0, sums, kTileBytes);
  if constexpr (F == 2) _tile_stored(1, sums + next_block, kTileBytes);
  if constexpr (P == 2) _tile_stored(2, sums + kTileFloats, kTileBytes);
  if constexpr (P == 2 && F == 2) _tile_stored(3, sums + next_block + kTileFloats, kTileBytes);
  if (c.last) before = {sums, next_block, tile, P, block, F};
}

// All pixels for F blocks of filters.
template <int F>
void multiply_blocks(const tapernet::HalvesCall& c, int block, Written& before) {
  int tile = 0;
  for (; tile + 2 <= c.tile_count; tile += 2) multiply_tiles<2, F>(c, tile, block, before);
  if (tile < c.tile_count) multiply_tiles<1, F>(c, tile, block, before);
}

TAPERNET_HALVES void multiply(const tapernet::HalvesCall& c) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    if (i != 4 && i != 5) shapes.rows[i] = static_cast<uint8_t>(c.tile_pixels);
  }
  // gcc's intrinsics do not say that they read memory.
  __asm__ volatile("" : : "r"(&shapes), "r"(c.tiles), "r"(c.weights), "r"(c.sums) : "memory");
  _tile_loadconfig(&shapes);
  Written before;
  int block = c.begin;
  for (; block + 2 <= c.end; block += 2) multiply_blocks<2>(c, block, before);
  if (block < c.end) multiply_blocks<1>(c, block, before);
  write(c, before);
  _tile_release();
}

#undef TAPERNET_HALVES

}  // namespace

#endif
