// What treats every channel by itself: depthwise convolution, pooling, scaling, sums.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// N neighbouring pixels at a time share the loads of the weights.
template <int N>
inline void depthwise_pixels(const tapernet::DepthwiseCall& c, int pixel, int lane) {
  Vec sum[N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) sum[i] = Vec{};
  const float* in = c.input + pixel * c.pixel_stride + lane;
  for (int t = 0; t < c.taps; ++t) {
    const Vec w = Wide::load(c.weights + t * tapernet::kLanes + lane);
    const float* tap = in + c.offsets[t];
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) sum[i] += w * Wide::load(tap + i * c.pixel_stride);
  }
  const Vec scale = Wide::load(c.scale + lane), shift = Wide::load(c.shift + lane);
  float* out = c.output + pixel * tapernet::kLanes + lane;
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    Wide::store(out + i * tapernet::kLanes, clamp(sum[i] * scale + shift, Wide::all(c.low), Wide::all(c.high)));
  }
}

void depthwise(const tapernet::DepthwiseCall& c) {
  for (int lane = 0; lane < tapernet::kLanes; lane += kWidth) {
    int pixel = 0;
    for (; pixel + 4 <= c.pixels; pixel += 4) depthwise_pixels<4>(c, pixel, lane);
    for (; pixel < c.pixels; ++pixel) depthwise_pixels<1>(c, pixel, lane);
  }
}

// The greater one, or NaN if either is NaN, as torch has it.
inline Vec greater(Vec a, Vec b) {
  const Vec larger = b > a ? b : a;
  return b != b ? b : larger;
}

void pool(const tapernet::PoolCall& c) {
  const Vec low = Wide::all(c.low), high = Wide::all(c.high);
  for (int y = 0; y < c.height; ++y) {
    const tapernet::Window rows = c.rows[y];
    for (int x = 0; x < c.width; ++x) {
      const tapernet::Window columns = c.columns[x];
      const int counted = c.divisor ? c.divisor : rows.counted * columns.counted;
      for (int lane = 0; lane < tapernet::kLanes; lane += kWidth) {
        Vec value = c.average ? Vec{} : Wide::all(-__builtin_inff());
        for (int i = rows.begin; i < rows.end; ++i) {
          const float* in = c.input + i * c.input_row + columns.begin * tapernet::kLanes + lane;
          for (int j = columns.begin; j < columns.end; ++j, in += tapernet::kLanes) {
            value = c.average ? value + Wide::load(in) : greater(value, Wide::load(in));
          }
        }
        if (c.average) value = value / Wide::all(static_cast<float>(counted));
        Wide::store(c.output + y * c.output_row + x * tapernet::kLanes + lane, clamp(value, low, high));
      }
    }
  }
}

void affine(const float* in, float* out, int pixels, const float* scale, const float* shift, float low, float high) {
  for (int lane = 0; lane < tapernet::kLanes; lane += kWidth) {
    const Vec a = Wide::load(scale + lane), b = Wide::load(shift + lane);
    for (int i = lane; i < pixels * tapernet::kLanes; i += tapernet::kLanes) {
      Wide::store(out + i, clamp(Wide::load(in + i) * a + b, Wide::all(low), Wide::all(high)));
    }
  }
}

void add(const float* a, const float* b, float* out, int pixels, float low, float high) {
  for (int i = 0; i < pixels * tapernet::kLanes; i += kWidth) {
    Wide::store(out + i, clamp(Wide::load(a + i) + Wide::load(b + i), Wide::all(low), Wide::all(high)));
  }
}

}  // namespace
