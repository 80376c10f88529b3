// How values lie in memory: which channels, cut by which dial, in which blocks, with which border.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels.h"

namespace tapernet {

inline int divide_up(int a, int b) { return (a + b - 1) / b; }
inline int round_up(int a, int b) { return divide_up(a, b) * b; }

// Neighbouring channels that one channel group cuts to a prefix, so many for each channel of it; group -1 never cuts.
struct Run {
  int size;
  int group;
  int repeat = 1;
  bool operator==(const Run& other) const {
    return size == other.size && group == other.group && repeat == other.repeat;
  }
};

// Of one run at a budget: the block that it starts in, and the channels that are kept.
struct Kept {
  int first_block;
  int channels;
  int blocks() const { return divide_up(channels, kLanes); }
};

inline int channels(const std::vector<Kept>& runs) {
  int sum = 0;
  for (const Kept& run : runs) sum += run.channels;
  return sum;
}

// A value of the network, whatever its height and width: its channels, and what its readers need around it.
struct Value {
  std::vector<Run> runs;  // several after a concatenation; each starts in a block of its own
  int lanes = kLanes;     // channels in a block; fewer for an input of few channels that only convolutions read
  int halo = 0;           // pixels of zeros around the image

  int channels() const {
    int sum = 0;
    for (const Run& run : runs) sum += run.size;
    return sum;
  }
  int blocks() const {
    int sum = 0;
    for (const Run& run : runs) sum += divide_up(run.size, lanes);
    return sum;
  }
  // Of each channel, its place when every run starts in a block of its own.
  std::vector<int> places() const {
    std::vector<int> result;
    int block = 0;
    for (const Run& run : runs) {
      for (int i = 0; i < run.size; ++i) result.push_back(block * lanes + i);
      block += divide_up(run.size, lanes);
    }
    return result;
  }
  std::vector<Kept> kept(const std::vector<int>& of_group) const {
    std::vector<Kept> result;
    int block = 0;
    for (const Run& run : runs) {
      result.push_back({block, run.group < 0 ? run.size : of_group[run.group] * run.repeat});
      block += divide_up(run.size, lanes);
    }
    return result;
  }
};

struct Size {
  int height, width;
};

// A value of known size. Strides are those of the full network, so that a budget changes counts alone. In floats.
struct Layout {
  int height = 0, width = 0, halo = 0, lanes = kLanes, blocks = 0;

  Layout() = default;
  Layout(const Value& value, Size size)
      : height(size.height), width(size.width), halo(value.halo), lanes(value.lanes), blocks(value.blocks()) {}

  ptrdiff_t row() const { return static_cast<ptrdiff_t>(width + 2 * halo) * lanes; }
  // Of a block, its border included. What lies between that and the next one is never written.
  ptrdiff_t filled() const { return (height + 2 * halo) * row(); }
  // An odd number of cache lines apart, where blocks of a power of two would all fall into the same few cache sets.
  ptrdiff_t block() const {
    const ptrdiff_t floats = filled();
    return lanes == kLanes && floats / kLanes % 2 == 0 ? floats + kLanes : floats;
  }
  ptrdiff_t image() const { return blocks * block(); }
  // From the start of a block to the first pixel of the image.
  ptrdiff_t origin() const { return pixel(0, 0); }
  // From the start of a block to a pixel.
  ptrdiff_t pixel(int y, int x) const { return (halo + y) * row() + static_cast<ptrdiff_t>(halo + x) * lanes; }
};

}  // namespace tapernet
