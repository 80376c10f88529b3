// Sums of products of bytes by the processor's matrix unit (AMX): four times the products of AVX-512 VNNI in a second.
//
// A tile is 16 rows of 64 bytes. The inputs of 16 pixels make one, 64 products of each; it is multiplied with the weights
// of 16 filters for these products, which lie as VNNI wants them, and added to a tile of 16 pixels by 16 filters.
#pragma once

#include "kernel_rounded.h"

#if defined(__linux__) && defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11)
#define TAPERNET_TILES

#include <immintrin.h>

namespace {

constexpr int kTileRows = 16, kTileBytes = 64, kTileFloats = 256;

// What `ldtilecfg` reads: here all eight tiles whole.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The inputs of each pixel in a row of their own, zeros from the end of a run to the next multiple of 64.
void pack(const tapernet::RoundedCall& c, int pixels) {
  for (int p = 0; p < pixels; ++p) {
    const uint8_t* const in = c.input + c.pixels[p];
    uint8_t* const row = c.packed + static_cast<ptrdiff_t>(p) * c.row;
    const tapernet::Segment* s = c.segments;
    for (const tapernet::Segment* run = c.runs; run < c.runs + c.run_count; ++run) {
      uint8_t *to = row + run->input, *const after = to + run->length;
      for (; to < after; ++s) {
        // Segments are of whole blocks of 16.
        const uint8_t* from = in + s->input;
        int k = 0;
        for (; k + kTileBytes <= s->length; k += kTileBytes) _mm512_storeu_si512(to + k, _mm512_loadu_si512(from + k));
        for (; k < s->length; k += 16) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to + k),
                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k)));
        }
        to += s->length;
      }
      _mm512_storeu_si512(after, _mm512_setzero_si512());
    }
  }
}

// The sums of 16 pixels with 16 filters to a bit for each filter, by pixel.
inline void compare(const int32_t* sums, const int32_t* least, uint16_t* stopped) {
  const __m512i bound = _mm512_loadu_si512(least);
  for (int p = 0; p < kTileRows; ++p) {
    stopped[p] = _mm512_cmplt_epi32_mask(_mm512_load_si512(sums + p * kTileRows), bound);
  }
}

// Two times 16 pixels from `pixel` on, for one block of filters or two.
template <bool kTwo>
__attribute__((target("amx-tile,amx-int8"))) void tile_products(const tapernet::RoundedCall& c, int pixel, int block) {
  const int8_t* const weights = c.weights + block * c.weight_stride;
  const uint8_t* const in = c.packed + static_cast<ptrdiff_t>(pixel) * c.row;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (const tapernet::Segment* run = c.runs; run < c.runs + c.run_count; ++run) {
    for (int k = 0; k < run->length; k += kTileBytes) {
      const int8_t* const of_block = weights + run->weight + static_cast<ptrdiff_t>(k) * tapernet::kLanes;
      _tile_loadd(4, in + run->input + k, c.row);
      _tile_loadd(5, in + run->input + k + kTileRows * static_cast<ptrdiff_t>(c.row), c.row);
      _tile_loadd(6, of_block, kTileBytes);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 5, 6);
      if constexpr (kTwo) {
        _tile_loadd(7, of_block + c.weight_stride, kTileBytes);
        _tile_dpbusd(2, 4, 7);
        _tile_dpbusd(3, 5, 7);
      }
    }
  }
  alignas(64) int32_t sums[4][kTileRows * kTileRows];
  _tile_stored(0, sums[0], kTileBytes);
  _tile_stored(1, sums[1], kTileBytes);
  if constexpr (kTwo) {
    _tile_stored(2, sums[2], kTileBytes);
    _tile_stored(3, sums[3], kTileBytes);
  }
  for (int v = 0; v <= kTwo; ++v) {
    const int first = (block + v) * tapernet::kLanes;
    uint16_t stopped[2 * kTileRows];
    compare(sums[2 * v], c.least + first, stopped);
    compare(sums[2 * v + 1], c.least + first, stopped + kTileRows);
    const __m512i by_pixel = _mm512_loadu_si512(stopped);
    for (int f = 0; f < tapernet::kLanes; ++f) c.alive[first + f] |= going_on(by_pixel, f) << pixel;
    for (int half = 0; c.worth.emitted && half < 2; ++half) {
      const int from = pixel + half * kTileRows, left = c.count - from;
      emit(c.worth, block + v, from, left < kTileRows ? left : kTileRows, sums[2 * v + half]);
    }
  }
}

__attribute__((target("amx-tile,amx-int8"))) void rounded_sums_tiles(const tapernet::RoundedCall& c) {
  constexpr int kPixels = 2 * kTileRows;
  const int pixels = (c.count + kPixels - 1) / kPixels * kPixels;
  const TileShapes shapes;
  pack(c, pixels);
  for (int f = 0; f < c.blocks * tapernet::kLanes; ++f) c.alive[f] = 0;
  // gcc's intrinsics do not say that they read memory.
  __asm__ volatile("" : : "r"(&shapes), "r"(c.packed) : "memory");
  _tile_loadconfig(&shapes);
  for (int pixel = 0; pixel < pixels; pixel += kPixels) {
    int block = 0;
    for (; block + 2 <= c.blocks; block += 2) tile_products<true>(c, pixel, block);
    if (block < c.blocks) tile_products<false>(c, pixel, block);
  }
  _tile_release();  // else the system would save the tiles with every change of threads
}

}  // namespace

#endif
