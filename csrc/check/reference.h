// The kernels as plain loops, to check the others against.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace tapernet::reference {

inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

inline void dense(const DenseCall& c) {
  for (const PixelGroup* g = c.groups; g < c.groups + c.group_count; ++g) {
    for (int p = g->begin; p < g->end; ++p) {
      for (int f = c.begin * kLanes; f < c.end * kLanes; ++f) {
        float sum = 0;
        for (const Segment* s = g->segments + g->chunks[0]; s < g->segments + g->chunks[c.chunk_count]; ++s) {
          const float* w = c.weights + f / kLanes * c.weight_stride + s->weight + f % kLanes;
          for (int k = 0; k < s->length; ++k) sum += c.inputs[p][s->input + k] * w[k * kLanes];
        }
        const bool dropped = f >= (c.end - 1) * kLanes + c.last_filters;
        const float result = dropped ? 0 : sum * c.scale[f] + c.shift[f];
        c.outputs[p][f / kLanes * c.output_stride + f % kLanes] = clamp(result, c.low, c.high);
      }
    }
  }
}

inline void depthwise(const DepthwiseCall& c) {
  for (int i = 0; i < c.pixels * kLanes; ++i) {
    const int lane = i % kLanes;
    float sum = 0;
    for (int t = 0; t < c.taps; ++t) {
      sum += c.input[i / kLanes * c.pixel_stride + c.offsets[t] + lane] * c.weights[t * kLanes + lane];
    }
    c.output[i] = clamp(sum * c.scale[lane] + c.shift[lane], c.low, c.high);
  }
}

inline float pool_one(const PoolCall& c, Window rows, Window columns, int lane) {
  float sum = 0, most = -INFINITY;
  for (int i = rows.begin; i < rows.end; ++i) {
    for (int j = columns.begin; j < columns.end; ++j) {
      const float x = c.input[i * c.input_row + j * kLanes + lane];
      sum += x;
      most = std::isnan(x) || x > most ? x : most;
    }
  }
  return c.average ? sum / static_cast<float>(c.divisor ? c.divisor : rows.counted * columns.counted) : most;
}

inline void pool(const PoolCall& c) {
  for (int y = 0; y < c.height; ++y) {
    for (int i = 0; i < c.width * kLanes; ++i) {
      c.output[y * c.output_row + i] = clamp(pool_one(c, c.rows[y], c.columns[i / kLanes], i % kLanes), c.low, c.high);
    }
  }
}

inline void affine(const float* in, float* out, int pixels, const float* scale, const float* shift, float low,
                   float high) {
  for (int i = 0; i < pixels * kLanes; ++i) out[i] = clamp(in[i] * scale[i % kLanes] + shift[i % kLanes], low, high);
}

inline void add(const float* a, const float* b, float* out, int pixels, float low, float high) {
  for (int i = 0; i < pixels * kLanes; ++i) out[i] = clamp(a[i] + b[i], low, high);
}

inline void interleave(const float* in, ptrdiff_t channel_stride, int channels, int pixels, float* out, int lanes) {
  for (int i = 0; i < pixels * lanes; ++i) {
    out[i] = i % lanes < channels ? in[i % lanes * channel_stride + i / lanes] : 0.0f;
  }
}

inline void deinterleave(const float* in, int channels, int pixels, float* out, ptrdiff_t channel_stride) {
  for (int c = 0; c < channels; ++c) {
    for (int x = 0; x < pixels; ++x) out[c * channel_stride + x] = in[x * kLanes + c];
  }
}

inline void planes(const PlanesCall& c) {
  for (int channel = 0; channel < c.channels; ++channel) {
    for (int w = 0; w < c.kernel_w; ++w) {
      for (int x = 0; x < c.columns; ++x) {
        c.output[channel * c.channel_stride + w * c.plane_stride + x] =
            c.input[(x * c.stride_w + w * c.dilation_w) * kLanes + channel];
      }
    }
  }
}

// One filter's sum at one pixel of the tile, check by check.
inline void partial_sum(const PartialCall& c, int filter, int pixel) {
  const float* in = c.input + pixel / c.columns * c.row_stride + pixel % c.columns;
  float sum = c.start[filter];
  for (int check = 0; check < c.checks; ++check) {
    for (int chunk = 0; chunk < c.chunks; ++chunk) {
      const int32_t* bound = c.bounds + (check * c.chunks + chunk) * c.filters + filter;
      for (int t = bound[0]; t < bound[1]; ++t) sum += in[c.taps[t].input] * c.taps[t].weight;
    }
    if (!(sum < c.thresholds[check * c.filters + filter])) continue;
    c.alive[filter] &= ~(uint64_t{1} << pixel);
    if (c.emitted) c.emitted[filter * kTilePixels + pixel] = sum;
    return;
  }
}

template <class F>
void each_alive(const uint64_t* alive, int filters, F f) {
  for (int i = 0; i < filters * kTilePixels; ++i) {
    if (alive[i / kTilePixels] >> (i % kTilePixels) & 1) f(i / kTilePixels, i % kTilePixels);
  }
}

inline void partial_sums(const PartialCall& c) {
  each_alive(c.alive, c.filters, [&](int filter, int pixel) { partial_sum(c, filter, pixel); });
}

inline void range(const float* in, ptrdiff_t count, float* low, float* high) {
  *low = std::min(0.0f, *std::min_element(in, in + count));
  *high = std::max(0.0f, *std::max_element(in, in + count));
}

inline void round(const float* in, ptrdiff_t count, float scale, int zero, uint8_t* out) {
  for (ptrdiff_t i = 0; i < count; ++i) {
    out[i] = static_cast<uint8_t>(std::clamp(std::nearbyint(in[i] * scale) + static_cast<float>(zero), 0.0f, 255.0f));
  }
}

inline void rounded_sums(const RoundedCall& c) {
  for (int filter = 0; filter < c.blocks * kLanes; ++filter) {
    const int8_t* weights = c.weights + filter / kLanes * c.weight_stride + filter % kLanes * 4;
    c.alive[filter] = 0;
    for (int pixel = 0; pixel < c.count; ++pixel) {
      int32_t sum = 0;
      for (int s = 0; s < c.segment_count; ++s) {
        const uint8_t* in = c.input + c.pixels[pixel] + c.segments[s].input;
        for (int k = 0; k < c.segments[s].length; ++k) {
          sum += in[k] * weights[c.segments[s].weight + k / 4 * 4 * kLanes + k % 4];
        }
      }
      if (sum >= c.least[filter]) c.alive[filter] |= uint64_t{1} << pixel;
      if (!c.worth.emitted) continue;
      c.worth.emitted[(filter / kLanes * kTilePixels + c.worth.places[pixel]) * kLanes + filter % kLanes] =
          static_cast<float>(sum - c.worth.zeros[filter]) * c.worth.factors[filter] + c.worth.start[filter];
    }
  }
}

inline void survivors(const SurvivorCall& c) {
  each_alive(c.alive, c.filters, [&](int filter, int pixel) {
    float& result = c.sums[filter / kLanes * kLanes * kTilePixels + filter % kLanes * c.filter_step +
                           pixel * c.pixel_step];
    float sum = c.bias ? c.bias[filter] : result;
    for (int s = 0; s < c.segment_count; ++s) {
      const float* w = c.weights + filter * c.weight_stride + c.segments[s].weight;
      const float* in = c.input + c.pixels[pixel] + c.segments[s].input;
      for (int k = 0; k < c.segments[s].length; ++k) sum += in[k] * w[k];
    }
    result = sum;
  });
}

inline constexpr Kernels kernels = {
    "reference", dense, depthwise, pool, affine, add, interleave, deinterleave, planes, partial_sums, range,
    round, rounded_sums, false, survivors};

}  // namespace tapernet::reference
