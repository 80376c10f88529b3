// Convolutions whose sums stop early: partial sums of every output first, then the full sums of those that go on.
//
// The partial sums use the few largest weights of a filter, which lie scattered; so 64 neighbouring outputs share each
// weight, and the input lies in planes. The full sums are of scattered outputs; so each is a dot product over contiguous
// memory, begun anew because that is faster than to skip the scattered weights that are done already.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// The partial sums of a tile with so many columns: a vector holds pixels of one row.
template <int Columns>
struct Tile {
  static constexpr int kLanes = Columns < kWidth ? Columns : kWidth;
  static constexpr int kSums = 8 * kLanes < tapernet::kTilePixels ? 8 : tapernet::kTilePixels / kLanes;  // vectors
  static constexpr int kPixels = kSums * kLanes;                                                         // at once
  static constexpr int kChains = kSums < 8 ? 2 : 1;  // few sums need a second one each to keep the processor busy
  using Part = Floats<kLanes>;
};

// Continues one filter's sums over some of the tile's pixels. Returns which fall below the threshold.
template <int Columns>
inline uint64_t add_taps(const tapernet::PartialCall& c, int first, const tapernet::Tap* tap, const tapernet::Tap* end,
                         bool begin, float start, float* sums, bool keep, float threshold) {
  using Part = typename Tile<Columns>::Part;
  constexpr int kSums = Tile<Columns>::kSums, kLanes = Tile<Columns>::kLanes;
  constexpr int kChains = Tile<Columns>::kChains;
  typename Part::Vec sum[kChains][kSums] = {};
  const float* const origin = c.input + (first / Columns) * c.row_stride + first % Columns;
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) sum[0][i] = begin ? Part::all(start) : Part::load(sums + first + i * kLanes);
  const auto add = [&](const tapernet::Tap& tap, typename Part::Vec(&to)[kSums]) {
    const float* in = origin + tap.input;
    const typename Part::Vec w = Part::all(tap.weight);
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) {
      const int pixel = i * kLanes;
      to[i] += w * Part::load(in + (pixel / Columns) * c.row_stride + pixel % Columns);
    }
  };
  for (; tap + kChains <= end; tap += kChains) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain) add(tap[chain], sum[chain]);
  }
  if (tap < end) add(*tap, sum[0]);
#pragma GCC unroll 8
  for (int i = 0; kChains == 2 && i < kSums; ++i) sum[0][i] += sum[kChains - 1][i];
  uint64_t stopped = 0;
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) {
    if (keep) Part::store(sums + first + i * kLanes, sum[0][i]);
    stopped |= static_cast<uint64_t>(below(sum[0][i], Part::all(threshold))) << (first + i * kLanes);
  }
  return stopped;
}

inline void emit(float* to, const float* sums, uint64_t stopped) {
  for (; stopped; stopped &= stopped - 1) {
    const int pixel = __builtin_ctzll(stopped);
    to[pixel] = sums[pixel];
  }
}

template <int Columns>
void partial_sums_in(const tapernet::PartialCall& c) {
  const int stages = c.checks * c.chunks;
  for (int stage = 0; stage < stages; ++stage) {
    const int check = stage / c.chunks;
    const bool checked = stage % c.chunks == c.chunks - 1;
    const bool keep = stage + 1 < stages || c.emitted;
    for (int f = 0; f < c.filters; ++f) {
      if (!c.alive[f]) continue;
      const int32_t* bound = c.bounds + static_cast<ptrdiff_t>(stage) * c.filters + f;
      float* sums = c.sums + static_cast<ptrdiff_t>(f) * tapernet::kTilePixels;
      uint64_t stopped = 0;
      for (int first = 0; first < tapernet::kTilePixels; first += Tile<Columns>::kPixels) {
        stopped |= add_taps<Columns>(c, first, c.taps + bound[0], c.taps + bound[1], stage == 0, c.start[f], sums, keep,
                                     c.thresholds[check * c.filters + f]);
      }
      if (!checked) continue;
      if (c.emitted) emit(c.emitted + static_cast<ptrdiff_t>(f) * tapernet::kTilePixels, sums, stopped & c.alive[f]);
      c.alive[f] &= ~stopped;
    }
  }
}

void partial_sums(const tapernet::PartialCall& c) {
  // Rows that follow each other are as good as one.
  switch (c.row_stride == c.columns ? tapernet::kTilePixels : c.columns) {
    case 8: return partial_sums_in<8>(c);
    case 16: return partial_sums_in<16>(c);
    case 32: return partial_sums_in<32>(c);
    default: return partial_sums_in<tapernet::kTilePixels>(c);
  }
}

constexpr int kDots = kRegisters >= 32 ? 16 : 8;  // survivors whose dot products share the loads of the weights
constexpr int kHeld = kRegisters >= 32 ? 5 : 1;   // vectors of weights that stay in registers for all of them

// A sum waits for the product before it: few sums need a second one each to keep the processor busy.
template <int N>
constexpr int kChains = 2 * N + kHeld + 2 <= kRegisters ? 2 : 1;

inline Vec total(const Vec (&chains)[1]) { return chains[0]; }
inline Vec total(const Vec (&chains)[2]) { return chains[0] + chains[1]; }

// Adds the products of so many vectors of weights, each loaded once, with the inputs of N pixels.
template <int N, int Vectors>
inline void add_products(const float* weights, const float* const (&in)[N], ptrdiff_t from,
                         Vec (&sum)[kDots][kChains<N>]) {
  Vec w[Vectors];
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; ++v) w[v] = Wide::load(weights + v * kWidth);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    const float* const x = in[i] + from;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sum[i][v % kChains<N>] += w[v] * Wide::load(x + v * kWidth);
  }
}

// N dot products with the weights of one filter over the segments, in result[0..N). The segments' length is
// 16 * Blocks, or anything if that is zero.
template <int N, int Blocks>
inline void dots(const tapernet::SurvivorCall& c, const float* weights, const float* const* pixels, float* result) {
  constexpr int kOfSegment = Blocks * tapernet::kLanes / kWidth;  // vectors
  const float* in[N];
  Vec sum[kDots][kChains<N>] = {};
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) in[i] = pixels[i];
  for (const tapernet::Segment* s = c.segments; s < c.segments + c.segment_count; ++s) {
    const float* const w = weights + s->weight;
    const int vectors = Blocks ? kOfSegment : s->length / kWidth;
    int v = 0;
#pragma GCC unroll 10
    for (; v + kHeld <= vectors; v += kHeld) {
      add_products<N, kHeld>(w + v * kWidth, in, s->input + v * kWidth, sum);
    }
    if constexpr (Blocks > 0) {
      constexpr int kLeft = kOfSegment % kHeld;
      if constexpr (kLeft > 0) add_products<N, kLeft>(w + v * kWidth, in, s->input + v * kWidth, sum);
    } else {
      for (; v < vectors; ++v) add_products<N, 1>(w + v * kWidth, in, s->input + v * kWidth, sum);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; i += 4) {
    Four::Vec a = fold(total(sum[i])), b = fold(total(sum[i + 1]));
    Four::Vec d = fold(total(sum[i + 2])), e = fold(total(sum[i + 3]));
    transpose(a, b, d, e);
    Four::store(result + i, (a + b) + (d + e));
  }
}

// `count` dot products, of which there are First at least and Last at most.
template <int First, int Last, int Blocks>
inline void dots_of(int count, const tapernet::SurvivorCall& c, const float* weights, const float* const* pixels,
                    float* result) {
  constexpr int kMiddle = (First + Last) / 2;
  if constexpr (First == Last) {
    dots<First, Blocks>(c, weights, pixels, result);
  } else if (count <= kMiddle) {
    dots_of<First, kMiddle, Blocks>(count, c, weights, pixels, result);
  } else {
    dots_of<kMiddle + 1, Last, Blocks>(count, c, weights, pixels, result);
  }
}

template <int Blocks>
void survivors_of(const tapernet::SurvivorCall& c) {
  for (int f = 0; f < c.filters; ++f) {
    const float* weights = c.weights + f * c.weight_stride;
    float* sums = c.sums + static_cast<ptrdiff_t>(f / tapernet::kLanes) * tapernet::kLanes * tapernet::kTilePixels +
                  static_cast<ptrdiff_t>(f % tapernet::kLanes) * c.filter_step;
    for (uint64_t alive = c.alive[f]; alive;) {
      const float* pixels[kDots];
      int at[kDots], count = 0;
      for (; alive && count < kDots; alive &= alive - 1, ++count) {
        at[count] = __builtin_ctzll(alive);
        pixels[count] = c.input + c.pixels[at[count]];
      }
      float result[kDots];
      dots_of<1, kDots, Blocks>(count, c, weights, pixels, result);
      for (int i = 0; i < count; ++i) {
        float& sum = sums[at[i] * c.pixel_step];
        sum = result[i] + (c.bias ? c.bias[f] : sum);
      }
    }
  }
}

// Kernels of one, three and five columns have loops of their own.
void survivors(const tapernet::SurvivorCall& c) {
  switch (c.blocks) {
    case 1: return survivors_of<1>(c);
    case 3: return survivors_of<3>(c);
    case 5: return survivors_of<5>(c);
    default: return survivors_of<0>(c);
  }
}

}  // namespace
