// From one channel after the other to blocks of channels, and back.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

void interleave(const float* in, ptrdiff_t channel_stride, int channels, int pixels, float* out, int lanes) {
  int channel = 0;
  for (; channel + 4 <= channels; channel += 4) {
    const float* from = in + channel * channel_stride;
    int x = 0;
    for (; x + 4 <= pixels; x += 4) {
      Four::Vec a = Four::load(from + x), b = Four::load(from + channel_stride + x);
      Four::Vec c = Four::load(from + 2 * channel_stride + x), d = Four::load(from + 3 * channel_stride + x);
      transpose(a, b, c, d);
      float* to = out + static_cast<ptrdiff_t>(x) * lanes + channel;
      Four::store(to, a);
      Four::store(to + lanes, b);
      Four::store(to + 2 * lanes, c);
      Four::store(to + 3 * lanes, d);
    }
    for (; x < pixels; ++x) {
      for (int i = 0; i < 4; ++i) out[static_cast<ptrdiff_t>(x) * lanes + channel + i] = from[i * channel_stride + x];
    }
  }
  for (; channel < lanes; ++channel) {
    const float* from = in + channel * channel_stride;
    float* to = out + channel;
    for (int x = 0; x < pixels; ++x, to += lanes) *to = channel < channels ? from[x] : 0.0f;
  }
}

// Pixels of 16 channels to one channel after the other.
inline void deinterleave(const float* in, int channels, int pixels, float* out, ptrdiff_t channel_stride) {
  constexpr int lanes = tapernet::kLanes;
  int channel = 0;
  for (; channel + 4 <= channels; channel += 4) {
    float* to = out + channel * channel_stride;
    int x = 0;
    for (; x + 4 <= pixels; x += 4) {
      const float* from = in + static_cast<ptrdiff_t>(x) * lanes + channel;
      Four::Vec a = Four::load(from), b = Four::load(from + lanes);
      Four::Vec c = Four::load(from + 2 * lanes), d = Four::load(from + 3 * lanes);
      transpose(a, b, c, d);
      Four::store(to + x, a);
      Four::store(to + channel_stride + x, b);
      Four::store(to + 2 * channel_stride + x, c);
      Four::store(to + 3 * channel_stride + x, d);
    }
    for (; x < pixels; ++x) {
      for (int i = 0; i < 4; ++i) to[i * channel_stride + x] = in[static_cast<ptrdiff_t>(x) * lanes + channel + i];
    }
  }
  for (; channel < channels; ++channel) {
    const float* from = in + channel;
    for (int x = 0; x < pixels; ++x, from += lanes) out[channel * channel_stride + x] = *from;
  }
}

// For each plane and channel, `copy(from, to)` of a row, whose channels lie apart.
template <class Copy>
inline void each_plane(const tapernet::PlanesCall& c, Copy copy) {
  for (int w = 0; w < c.kernel_w; ++w) {
    const float* from = c.apart + w * c.dilation_w;
    float* to = c.output + w * c.plane_stride;
    for (int channel = 0; channel < c.channels; ++channel, from += c.apart_stride, to += c.channel_stride) {
      copy(from, to);
    }
  }
}

// Copies a row of a whole number of `Columns`.
template <int Columns>
inline void copy_row(const float* from, float* to, int columns) {
  constexpr int kPart = Columns < kWidth ? Columns : kWidth;
  for (int x = 0; x < columns; x += Columns) {
#pragma GCC unroll 8
    for (int i = 0; i < Columns; i += kPart) Floats<kPart>::store(to + x + i, Floats<kPart>::load(from + x + i));
  }
}

void planes(const tapernet::PlanesCall& c) {
  deinterleave(c.input, c.channels, c.pixels, c.apart, c.apart_stride);
  if (c.stride_w > 1) {
    each_plane(c, [&](const float* from, float* to) {
      for (int x = 0; x < c.columns; ++x) to[x] = from[x * c.stride_w];
    });
  } else if (c.columns % 16) {
    each_plane(c, [&](const float* from, float* to) { copy_row<8>(from, to, c.columns); });
  } else {
    each_plane(c, [&](const float* from, float* to) { copy_row<16>(from, to, c.columns); });
  }
}

}  // namespace
