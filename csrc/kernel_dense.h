// Convolutions (and fully connected layers) that compute everything: P pixels x F blocks of 16 filters in registers.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int kVectors = tapernet::kLanes / kWidth;              // vectors in a block of 16 filters
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;        // the rest hold weights and an input
constexpr int kMostPixels = 8;  // each takes an address register
constexpr int kMostBlocks = 4;

constexpr int within(int most, int x) { return x < 1 ? 1 : x > most ? most : x; }

// Blocks of filters that go with so many pixels, and pixels with so many blocks: as many as the registers hold, so that
// enough sums are under way at a time, and each load serves many products.
constexpr int blocks_with(int pixels) { return within(kMostBlocks, kAccumulators / (pixels * kVectors)); }
constexpr int pixels_with(int blocks) { return within(kMostPixels, kAccumulators / (blocks * kVectors)); }
// Blocks that go together where there are many pixels: about as many vectors as pixels.
constexpr int kTogether = blocks_with(6);

// Fetches weights from far before their turn, a few with every 16 products. Where there are few pixels the processor would
// else wait for them, as it does not foresee where the next of several streams goes on.
class Ahead {
 public:
  // For the blocks of filters from `begin` to `end`.
  Ahead(const tapernet::DenseCall& c, int begin, int end) : c_(c), begin_(begin), end_(end), block_(begin - 1) {
    if (!c.far || begin >= end) return;
    longest_ = c.groups;
    long steps = 0;
    for (const tapernet::PixelGroup* g = c.groups; g < c.groups + c.group_count; ++g) {
      const int pixels = g->end - g->begin, turns = (pixels + kStepPixels - 1) / kStepPixels;
      steps += products(*g) * turns;
      if (products(*g) > products(*longest_)) longest_ = g;
    }
    // As many as are used at that time, so that what is fetched stays one tile ahead.
    if (steps) lines_ = static_cast<int>((kApart * kTogether * products(*longest_) + steps - 1) / steps);
    for (int i = 0; i < kTogether && next_block(); ++i) left_ = 0;
  }

  // Nothing is left to fetch, or never was.
  bool done() const { return lines_ == 0; }

  void fetch() {
    for (int i = 0; i < lines_; ++i) {
      while (left_ == 0) {
        if (!next_block()) return;
      }
      __builtin_prefetch(at_, 0, 2);
      at_ += tapernet::kLanes;
      --left_;
    }
  }

  static constexpr int kApart = 8;  // products between calls of `fetch`

 private:
  static constexpr int kStepPixels = 6;

  static long products(const tapernet::Segment* from, const tapernet::Segment* to) {
    long sum = 0;
    for (; from < to; ++from) sum += from->length;
    return sum;
  }
  long products(const tapernet::PixelGroup& g) const {
    return products(g.segments, g.segments + g.chunks[c_.chunk_count]);
  }

  bool next_block() {
    if (++block_ == end_) {
      block_ = begin_;
      ++chunk_;
    }
    if (chunk_ == c_.chunk_count) {
      lines_ = 0;
      return false;
    }
    const tapernet::Segment* const from = longest_->segments + longest_->chunks[chunk_];
    left_ = products(from, longest_->segments + longest_->chunks[chunk_ + 1]);
    at_ = c_.weights + block_ * c_.weight_stride + (left_ ? from->weight : 0);
    return true;
  }

  const tapernet::DenseCall& c_;
  int begin_, end_, block_, chunk_ = 0, lines_ = 0;
  const tapernet::PixelGroup* longest_ = nullptr;
  const float* at_ = nullptr;
  long left_ = 0;
};

// Adds the products of one input channel (or tap) to the sums of P pixels and V vectors of filters.
template <int P, int V>
inline __attribute__((always_inline)) void step(Vec (&sum)[P][V], const float* const (&in)[P], ptrdiff_t at,
                                                const float* weights, ptrdiff_t weight_stride) {
  Vec w[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    w[v] = Wide::load(weights + (v / kVectors) * weight_stride + (v % kVectors) * kWidth);
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const Vec x = Wide::all(in[p][at]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[p][v] += x * w[v];
  }
}

// P pixels and V vectors of filters, from the start of a block. Where they end within a block, the filters after them
// are such that a budget drops, and are given zeros.
template <int P, int V>
void dense_tile(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int chunk, Ahead& ahead) {
  constexpr int kWhole = (V + kVectors - 1) / kVectors * kVectors;
  const float* in[P];
  float* const* const outputs = c.outputs + pixel;
  Vec sum[P][V];
  const ptrdiff_t filter = static_cast<ptrdiff_t>(block) * tapernet::kLanes;
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    in[p] = c.inputs[pixel + p];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const float* so_far = outputs[p] + (block + v / kVectors) * c.output_stride + (v % kVectors) * kWidth;
      sum[p][v] = chunk == 0 ? Vec{} : Wide::load(so_far);
    }
  }
  const float* const weights = c.weights + block * c.weight_stride;
  const tapernet::Segment* const begin = group.segments + group.chunks[chunk];
  const tapernet::Segment* const end = group.segments + group.chunks[chunk + 1];
  if (ahead.done()) {
    for (const tapernet::Segment* s = begin; s < end; ++s) {
      const float* w = weights + s->weight;
      const ptrdiff_t from = s->input;
      for (int k = 0; k < s->length; ++k) step<P, V>(sum, in, from + k, w + k * tapernet::kLanes, c.weight_stride);
    }
  } else {
    for (const tapernet::Segment* s = begin; s < end; ++s) {
      for (int first = 0; first < s->length; first += Ahead::kApart) {
        ahead.fetch();
        const int count = s->length - first > Ahead::kApart ? Ahead::kApart : s->length - first;
        const float* w = weights + s->weight + first * tapernet::kLanes;
        const ptrdiff_t from = s->input + first;
        for (int k = 0; k < count; ++k) step<P, V>(sum, in, from + k, w + k * tapernet::kLanes, c.weight_stride);
      }
    }
  }
  const bool last = chunk + 1 == c.chunk_count;
  const Vec low = Wide::all(c.low), high = Wide::all(c.high);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const Vec scale = Wide::load(c.scale + filter + v * kWidth), shift = Wide::load(c.shift + filter + v * kWidth);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* out = outputs[p] + (block + v / kVectors) * c.output_stride + (v % kVectors) * kWidth;
      Wide::store(out, last ? clamp(sum[p][v] * scale + shift, low, high) : sum[p][v]);
    }
  }
  for (int v = V; last && v < kWhole; ++v) {
    for (int p = 0; p < P; ++p) {
      Wide::store(outputs[p] + (block + v / kVectors) * c.output_stride + (v % kVectors) * kWidth,
                  clamp(Vec{}, low, high));
    }
  }
}

// P pixels for the blocks of filters from `block` to `end`, F or fewer.
template <int P, int F>
void dense_few_blocks(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int end,
                      int chunk, Ahead& ahead) {
  if constexpr (F > 0) {
    if (end - block == F) return dense_tile<P, F * kVectors>(c, group, pixel, block, chunk, ahead);
    dense_few_blocks<P, F - 1>(c, group, pixel, block, end, chunk, ahead);
  }
}

// P pixels for all blocks of filters from `block` to `end`.
template <int P>
void dense_pixels(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int end,
                  int chunk, Ahead& ahead) {
  constexpr int F = blocks_with(P);
  for (; block + F <= end; block += F) dense_tile<P, F * kVectors>(c, group, pixel, block, chunk, ahead);
  dense_few_blocks<P, F - 1>(c, group, pixel, block, end, chunk, ahead);
}

// Fewer pixels than the kernel likes to take at a time: P or less.
template <int P>
void dense_rest(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int end,
                int chunk, Ahead& ahead) {
  if constexpr (P > 0) {
    if (group.end - pixel == P) return dense_pixels<P>(c, group, pixel, block, end, chunk, ahead);
    dense_rest<P - 1>(c, group, pixel, block, end, chunk, ahead);
  }
}

// All pixels for the blocks of filters from `block` to `end`, as many pixels at a time as go with F blocks or, if there
// are fewer, with those.
template <int F>
void dense_blocks(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int block, int end, int chunk, Ahead& ahead) {
  if constexpr (F > 1) {
    if (end - block < F) return dense_blocks<F - 1>(c, group, block, end, chunk, ahead);
  }
  constexpr int P = pixels_with(F);
  int pixel = group.begin;
  for (; pixel + P <= group.end; pixel += P) dense_pixels<P>(c, group, pixel, block, end, chunk, ahead);
  dense_rest<P - 1>(c, group, pixel, block, end, chunk, ahead);
}

// All pixels for the first V vectors of one block.
template <int V>
struct Narrow {
  static constexpr int kPixels = kAccumulators / V < 8 ? kAccumulators / V : 8;

  template <int P>
  static void rest(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int pixel, int block, int chunk, Ahead& ahead) {
    if constexpr (P > 0) {
      if (group.end - pixel == P) return dense_tile<P, V>(c, group, pixel, block, chunk, ahead);
      rest<P - 1>(c, group, pixel, block, chunk, ahead);
    }
  }

  static void run(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int block, int chunk, Ahead& ahead) {
    int pixel = group.begin;
    for (; pixel + kPixels <= group.end; pixel += kPixels) dense_tile<kPixels, V>(c, group, pixel, block, chunk, ahead);
    rest<kPixels - 1>(c, group, pixel, block, chunk, ahead);
  }
};

// The last block where a budget keeps so few of its filters that some vectors would hold none.
template <int V>
void dense_narrow(const tapernet::DenseCall& c, const tapernet::PixelGroup& group, int vectors, int chunk, Ahead& ahead) {
  if constexpr (V > 0) {
    if (vectors == V) return Narrow<V>::run(c, group, c.end - 1, chunk, ahead);
    dense_narrow<V - 1>(c, group, vectors, chunk, ahead);
  }
}

void dense(const tapernet::DenseCall& c) {
  int most = 0;
  for (int g = 0; g < c.group_count; ++g) {
    const int pixels = c.groups[g].end - c.groups[g].begin;
    most = pixels > most ? pixels : most;
  }
  const int vectors = (c.last_filters + kWidth - 1) / kWidth;  // of the last block
  const int whole = vectors < kVectors ? c.end - 1 : c.end;
  const tapernet::PixelGroup* const groups_end = c.groups + c.group_count;
  // Few pixels read every weight only once; then it is better to go through many filters at a time.
  const int blocks = whole - c.begin, turns = (blocks + kTogether - 1) / kTogether;
  const int together = turns == 0 || most < pixels_with(kTogether) ? blocks : (blocks + turns - 1) / turns;
  Ahead ahead(c, c.begin, whole);
  for (int chunk = 0; chunk < c.chunk_count; ++chunk) {
    for (int block = c.begin; block < whole; block += together) {
      const int end = block + together < whole ? block + together : whole;
      for (const tapernet::PixelGroup* g = c.groups; g < groups_end; ++g) {
        dense_blocks<kTogether>(c, *g, block, end, chunk, ahead);
      }
    }
    if (whole == c.end) continue;
    for (const tapernet::PixelGroup* g = c.groups; g < groups_end; ++g) {
      dense_narrow<kVectors - 1>(c, *g, vectors, chunk, ahead);
    }
  }
}

}  // namespace
