// Convolutions (and fully connected layers) that compute everything: P pixels x F blocks of 16 filters in registers.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int kVectors = tapernet::kLanes / kWidth;              // vectors in a block of 16 filters
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;        // the rest hold weights and an input
constexpr int kMostPixels = kVectors == 4 && kRegisters == 16 ? 3 : 6;
constexpr int kMostBlocks = 4;

// Blocks of filters that go with P pixels: as many as the registers hold, so that enough sums are under way at a time.
constexpr int blocks_with(int pixels) {
  const int fit = kAccumulators / (pixels * kVectors);
  return fit < 1 ? 1 : fit > kMostBlocks ? kMostBlocks : fit;
}

// Adds the products of one input channel (or tap) to the sums of P pixels and F blocks.
template <int P, int F>
inline __attribute__((always_inline)) void step(Vec (&sum)[P][F * kVectors], const float* const (&in)[P], ptrdiff_t at,
                                                const float* weights, ptrdiff_t weight_stride) {
  Vec w[F * kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < F * kVectors; ++v) {
    w[v] = Wide::load(weights + (v / kVectors) * weight_stride + (v % kVectors) * kWidth);
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const Vec x = Wide::all(in[p][at]);
#pragma GCC unroll 8
    for (int v = 0; v < F * kVectors; ++v) sum[p][v] += x * w[v];
  }
}

template <int P, int F>
void dense_tile(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int chunk) {
  const float* in[P];
  float* const* const outputs = c.outputs + pixel;
  Vec sum[P][F * kVectors];
  const ptrdiff_t filter = static_cast<ptrdiff_t>(block) * tapernet::kLanes;
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    in[p] = c.inputs[pixel + p];
#pragma GCC unroll 8
    for (int v = 0; v < F * kVectors; ++v) {
      const float* so_far = outputs[p] + (block + v / kVectors) * c.output_stride + (v % kVectors) * kWidth;
      sum[p][v] = chunk == 0 ? Vec{} : Wide::load(so_far);
    }
  }
  const float* const weights = c.weights + block * c.weight_stride;
  const tapernet::Segment* const end = group.segments + group.chunks[chunk + 1];
  for (const tapernet::Segment* s = group.segments + group.chunks[chunk]; s < end; ++s) {
    const float* w = weights + s->weight;
    const ptrdiff_t from = s->input;
    for (int k = 0; k < s->length; ++k) step<P, F>(sum, in, from + k, w + k * tapernet::kLanes, c.weight_stride);
  }
  const bool last = chunk + 1 == c.chunk_count;
  const Vec low = Wide::all(c.low), high = Wide::all(c.high);
#pragma GCC unroll 8
  for (int v = 0; v < F * kVectors; ++v) {
    const Vec scale = Wide::load(c.scale + filter + v * kWidth), shift = Wide::load(c.shift + filter + v * kWidth);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* out = outputs[p] + (block + v / kVectors) * c.output_stride + (v % kVectors) * kWidth;
      Wide::store(out, last ? clamp(sum[p][v] * scale + shift, low, high) : sum[p][v]);
    }
  }
}

// P pixels for all blocks of filters from `block` to `end`.
template <int P>
void dense_pixels(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int end,
                  int chunk) {
  constexpr int F = blocks_with(P);
  for (; block + F <= end; block += F) dense_tile<P, F>(c, group, pixel, block, chunk);
  for (; block < end; ++block) dense_tile<P, 1>(c, group, pixel, block, chunk);
}

// Fewer pixels than the kernel likes to take at a time.
void dense_rest(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int end,
                int chunk) {
  switch (group.end - pixel) {
    case 1: return dense_pixels<1>(c, group, pixel, block, end, chunk);
    case 2: return dense_pixels<2>(c, group, pixel, block, end, chunk);
    case 3: return dense_pixels<3>(c, group, pixel, block, end, chunk);
    case 4: return dense_pixels<4>(c, group, pixel, block, end, chunk);
    case 5: return dense_pixels<5>(c, group, pixel, block, end, chunk);
    default: return;
  }
}

void dense(const tapernet::DenseCall& c) {
  constexpr int P = kMostPixels;
  int most = 0;
  for (int g = 0; g < c.group_count; ++g) {
    const int pixels = c.groups[g].end - c.groups[g].begin;
    most = pixels > most ? pixels : most;
  }
  // Few pixels read every weight only once; then it is better to go through many filters at a time.
  const int together = most < P ? c.end - c.begin : blocks_with(P);
  for (int chunk = 0; chunk < c.chunk_count; ++chunk) {
    for (int block = c.begin; block < c.end; block += together) {
      const int end = block + together < c.end ? block + together : c.end;
      for (const tapernet::PixelGroup* g = c.groups; g < c.groups + c.group_count; ++g) {
        int pixel = g->begin;
        for (; pixel + P <= g->end; pixel += P) dense_pixels<P>(c, *g, pixel, block, end, chunk);
        dense_rest(c, *g, pixel, block, end, chunk);
      }
    }
  }
}

}  // namespace
