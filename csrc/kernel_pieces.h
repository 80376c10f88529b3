// Sums of products of floats by the processor's matrix unit (AMX), which multiplies numbers of two bytes (bfloat16).
//
// A float is the sum of its nearest bfloat16, the nearest one to what is left, and so on. Of two such pieces, three
// products of pieces add up to that of the floats, but for 2^-16 of it at most; of three pieces, which hold every bit, six
// products do but for 2^-24, no more than a product of floats is rounded by.
#pragma once

#include "kernel_tiles.h"

#if defined(TAPERNET_TILES)

namespace {

#define TAPERNET_PIECES __attribute__((target("amx-tile,amx-bf16,avx512bf16")))

constexpr int kTileProducts = tapernet::kPiecesProducts;
constexpr int kAhead = 8 * kTileProducts * tapernet::kLanes;  // pieces that weights from far are fetched before their turn

// Whether the processor multiplies tiles of bfloat16, and vectors have the conversion.
bool multiplies_pieces() {
  constexpr unsigned kTilesOfPieces = 1u << 22, kConversion = 1u << 5;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTilesOfPieces)) return false;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kConversion);
}

// The pieces of 16 floats, from `to` on.
template <int N>
TAPERNET_PIECES inline void split(__m512 x, uint16_t* to, ptrdiff_t next) {
  for (int i = 0; i < N; ++i, to += next) {
    const __m256i piece = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), piece);
    if (i + 1 == N) break;
    const __m512i back = _mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, piece), 16);
    x = x - _mm512_castsi512_ps(back);
  }
}

template <int N>
TAPERNET_PIECES bool split(const tapernet::SplitCall& c) {
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  __m512i greatest = _mm512_setzero_si512();
  uint16_t* to = c.output.data;
  for (int left = c.floats, i = 0; left > 0; left -= 16, i += 16, to += c.pitch) {
    const __mmask16 lanes = static_cast<__mmask16>(left < 16 ? (1 << left) - 1 : 0xffff);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, c.input + i);
    greatest = _mm512_maskz_max_epu32(kAll, greatest, _mm512_and_si512(_mm512_castps_si512(x), no_sign));
    split<N>(x, to, c.output.next);
  }
  // From here on the nearest bfloat16 is infinite.
  constexpr int kTooGreat = 0x7f7f8000;
  return _mm512_cmpge_epu32_mask(greatest, _mm512_set1_epi32(kTooGreat)) == 0;
}

// The nearest bfloat16, as floats.
inline __m512i nearest(__m512 x) {
  const __m512i up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
  return _mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
}

void cut(const float* weights, ptrdiff_t floats, uint16_t* pieces) {
  for (const float* const end = weights + floats; weights < end; weights += 32, pieces += 96) {
    __m512 a = _mm512_loadu_ps(weights), b = _mm512_loadu_ps(weights + 16);
    for (int i = 0; i < 3; ++i) {
      const __m512i of_a = nearest(a), of_b = nearest(b);
      _mm512_storeu_si512(pieces + 32 * i, _mm512_or_si512(_mm512_maskz_srli_epi32(kAll, of_a, 16), of_b));
      a = a - _mm512_castsi512_ps(of_a);
      b = b - _mm512_castsi512_ps(of_b);
    }
  }
}

// The first `count` of 32 pieces, zeros after them.
inline __m512i first_of(const uint16_t* from, int count) {
  const __mmask32 lanes = count < kTileProducts ? (__mmask32{1} << count) - 1 : ~__mmask32{0};
  return _mm512_maskz_loadu_epi16(lanes, from);
}

template <int N>
void gather(const tapernet::GatherCall& c) {
  const ptrdiff_t next = c.rows.next, next_of_input = c.next;
  const tapernet::Segment* const end = c.segments + c.segment_count;
  for (int p = 0; p < c.pixels; ++p) {
    uint16_t* const row = c.rows.data + p * c.stride;
    const auto zeros = [&](int at) {
      for (int i = 0; i < N; ++i) _mm512_storeu_si512(row + at + i * next, _mm512_setzero_si512());
    };
    int at = 0;
    for (const tapernet::Segment* s = c.segments; s < end; ++s) {
      for (; at < s->weight; at += kTileProducts) zeros(at);
      at = s->weight;
      const uint16_t* in = c.inputs[p] + s->input;
      // The zeros after the last of them may lie where the next segment goes.
      for (int left = s->length; left > 0; left -= kTileProducts, in += kTileProducts, at += kTileProducts) {
        for (int i = 0; i < N; ++i) {
          _mm512_storeu_si512(row + at + i * next, first_of(in + i * next_of_input, left));
        }
      }
    }
    for (const int length = c.length; at < length; at += kTileProducts) zeros(at);
  }
}

// Sums of some tiles of pixels with some blocks of filters, in memory.
struct Written {
  const float* data = nullptr;
  ptrdiff_t next_block = 0;  // floats
  int tile = 0, tiles = 0, block = 0, blocks = 0;
};

// Sums, through scale, shift and clamp, to where their pixels lie.
inline void write(const tapernet::PiecesCall& c, const Written& s) {
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

// Tiles 0 to 3 of the processor hold sums, 4 and 5 weights, 6 and 7 inputs: of P tiles of pixels and F blocks of filters.
template <int P>
TAPERNET_PIECES inline void load_inputs(const uint16_t* x, const uint16_t* y, ptrdiff_t row) {
  _tile_loadd(6, x, row);
  if constexpr (P == 2) _tile_loadd(7, y, row);
}

template <int F>
TAPERNET_PIECES inline void load_weights(const uint16_t* w, const uint16_t* v, ptrdiff_t row) {
  _tile_loadd(4, w, row);
  if constexpr (F == 2) _tile_loadd(5, v, row);
}

template <int P, int F>
TAPERNET_PIECES inline void add_products() {
  _tile_dpbf16ps(0, 6, 4);
  if constexpr (F == 2) _tile_dpbf16ps(1, 6, 5);
  if constexpr (P == 2) _tile_dpbf16ps(2, 7, 4);
  if constexpr (P == 2 && F == 2) _tile_dpbf16ps(3, 7, 5);
}

// While it multiplies, the sums of the call before are written.
template <int N, int P, int F>
TAPERNET_PIECES void multiply_tiles(const tapernet::PiecesCall& c, int tile, int block, Written& before) {
  constexpr ptrdiff_t kPair = N * kTileBytes;                  // bytes from one pair of products to the next
  constexpr int kPiece = kTileBytes / sizeof(uint16_t);        // from a piece of a pair to the next
  constexpr int kWeights = N * kTileProducts * tapernet::kLanes;  // of a tile
  const ptrdiff_t row = c.stride * static_cast<ptrdiff_t>(sizeof(uint16_t)), next = c.next;
  const uint16_t *const in = c.tiles[tile], *const more = c.tiles[tile + P - 1];
  const uint16_t* const weights = c.weights + (block - c.begin) * c.weight_stride;
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
    const uint16_t *w = weights + static_cast<ptrdiff_t>(run->weight) * N, *v = w + weight_stride;
    for (int k = run->length; k > 0; k -= kTileProducts) {
      if (fetches) {
        for (int i = 0; i < kWeights; i += kPiece) {
          __builtin_prefetch(w + kAhead + i, 0, 3);
          if constexpr (F == 2) __builtin_prefetch(v + kAhead + i, 0, 3);
        }
      }
      // Every product of pieces but those too small to count, in an order that loads few tiles twice.
      load_weights<F>(w, v, kPair);
      load_inputs<P>(x + (N - 1) * next, y + (N - 1) * next, row);
      add_products<P, F>();
      if constexpr (N == 3) {
        load_inputs<P>(x + next, y + next, row);
        add_products<P, F>();
      }
      load_inputs<P>(x, y, row);
      add_products<P, F>();
      load_weights<F>(w + kPiece, v + kPiece, kPair);
      add_products<P, F>();
      if constexpr (N == 3) {
        load_inputs<P>(x + next, y + next, row);
        add_products<P, F>();
        load_weights<F>(w + 2 * kPiece, v + 2 * kPiece, kPair);
        load_inputs<P>(x, y, row);
        add_products<P, F>();
      }
      x += kTileProducts;
      y += kTileProducts;
      w += kWeights;
      v += kWeights;
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
template <int N, int F>
void multiply_blocks(const tapernet::PiecesCall& c, int block, Written& before) {
  int tile = 0;
  for (; tile + 2 <= c.tile_count; tile += 2) multiply_tiles<N, 2, F>(c, tile, block, before);
  if (tile < c.tile_count) multiply_tiles<N, 1, F>(c, tile, block, before);
}

template <int N>
TAPERNET_PIECES void multiply(const tapernet::PiecesCall& c) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    if (i != 4 && i != 5) shapes.rows[i] = static_cast<uint8_t>(c.tile_pixels);
  }
  // gcc's intrinsics do not say that they read memory.
  __asm__ volatile("" : : "r"(&shapes), "r"(c.tiles), "r"(c.weights), "r"(c.sums) : "memory");
  _tile_loadconfig(&shapes);
  Written before;
  int block = c.begin;
  for (; block + 2 <= c.end; block += 2) multiply_blocks<N, 2>(c, block, before);
  if (block < c.end) multiply_blocks<N, 1>(c, block, before);
  write(c, before);
  _tile_release();
}

#undef TAPERNET_PIECES

}  // namespace

#endif
