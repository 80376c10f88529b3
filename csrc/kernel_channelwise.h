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

// The greatest of a window's values, or NaN if there is one among them, as torch has it. NaN is looked for beside the
// comparisons, each of which has to wait for the one before it.
struct Greatest {
  Vec value = Wide::all(-__builtin_inff());
  decltype(Vec{} != Vec{}) odd = {};

  void take(Vec x) {
    value = x > value ? x : value;
    odd |= x != x;
  }
  Vec result(int) const { return odd ? Wide::all(__builtin_nanf("")) : value; }
};

struct Mean {
  Vec sum = {};

  void take(Vec x) { sum += x; }
  Vec result(int counted) const { return sum / Wide::all(static_cast<float>(counted)); }
};

template <class Of>
void pool_to(const tapernet::PoolCall& c) {
  const Vec low = Wide::all(c.low), high = Wide::all(c.high);
  for (int y = 0; y < c.height; ++y) {
    const tapernet::Window rows = c.rows[y];
    for (int x = 0; x < c.width; ++x) {
      const tapernet::Window columns = c.columns[x];
      const int counted = c.divisor ? c.divisor : rows.counted * columns.counted;
      for (int lane = 0; lane < tapernet::kLanes; lane += kWidth) {
        Of of;
        for (int i = rows.begin; i < rows.end; ++i) {
          const float* in = c.input + i * c.input_row + columns.begin * tapernet::kLanes + lane;
          for (int j = columns.begin; j < columns.end; ++j, in += tapernet::kLanes) of.take(Wide::load(in));
        }
        Wide::store(c.output + y * c.output_row + x * tapernet::kLanes + lane, clamp(of.result(counted), low, high));
      }
    }
  }
}

void pool(const tapernet::PoolCall& c) { c.average ? pool_to<Mean>(c) : pool_to<Greatest>(c); }

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
