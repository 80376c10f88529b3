// The filters of a convolution, packed so that every budget reads a prefix of them in place.
#pragma once

#include <cmath>
#include <cstring>

#include "buffer.h"
#include "window.h"

namespace tapernet {

// Filters in PyTorch's order, [filter][channel of its group][kernel_h][kernel_w], packed so that every budget reads a
// prefix in place: [16 filters][16 input channels][kernel_h][kernel_w][channel][filter].
//
// For pieces (see PiecesCall): [16 filters][32 input channels][kernel_h][kernel_w][channel][filter], with 16 channels where
// 32 are not left. Two pieces of a float lie in its place.
class PackedFilters {
 public:
  PackedFilters(const float* weight, const Value& in, const Value& out, const Sliding& window, int groups, int pieces)
      : lanes_(in.lanes), kernel_w_(window.kernel_w), taps_(window.taps()), pairs_(pieces && in.lanes == kLanes),
        filter_blocks_(out.blocks()) {
    const int channels = in.channels() / groups, filters = out.channels(), of_group = filters / groups;
    row_ = kernel_w_ * lanes_;
    // Of few channels, the pieces of a row of the kernel are read as they lie, and nothing else must be multiplied.
    if (pieces == 2 && !pairs_) row_ = round_up(row_, kPiecesProducts);
    reach(in, out, channels, of_group, groups);
    stride_ = static_cast<ptrdiff_t>(span_) * window.kernel_h * row_ * kLanes;
    data_ = Buffer(static_cast<size_t>(filter_blocks_) * stride_ + (pieces ? kPiecesProducts * kLanes : 0));
    const std::vector<int> to = in.places(), from = out.places();
    for (int f = 0; f < filters; ++f) {
      const int slot = from[f], block = slot / kLanes;
      float* const filter = data_.data() + block * stride_ + slot % kLanes;
      for (int c = 0; c < channels; ++c) {
        const int place = to[f / of_group * channels + c] - first_[block] * lanes_;
        for (int t = 0; t < taps_; ++t) {
          const int at = product(place / lanes_, t / kernel_w_, t % kernel_w_) + place % lanes_;
          const float x = weight[(static_cast<ptrdiff_t>(f) * channels + c) * taps_ + t];
          filter[static_cast<ptrdiff_t>(at) * kLanes] = x;
          has_pieces_ &= std::abs(x) < kMostOfPieces;
        }
      }
    }
    if (pieces == 2) split();
  }

  const float* data() const { return data_.data(); }
  ptrdiff_t stride() const { return stride_; }
  int first(int filter_block) const { return first_[filter_block]; }
  int span() const { return span_; }
  int blocks() const { return filter_blocks_; }
  // Whether all weights are finite, and the nearest bfloat16 to them, too.
  bool has_pieces() const { return has_pieces_; }
  size_t bytes() const { return data_.bytes(); }

  // Where in a filter the products of a tap start, for a block of input channels from the filter's first one on.
  int product(int block, int h, int w) const {
    if (!pairs_) return (block * taps_ / kernel_w_ + h) * row_ + w * lanes_;
    const int tap = h * kernel_w_ + w, before = block / 2 * 2 * taps_ * kLanes;
    return before + (alone(block) ? tap * kLanes : (2 * tap + block % 2) * kLanes);
  }
  // Whether a block of input channels, from the filter's first one on, is the last of an odd number.
  bool alone(int block) const { return block + 1 == span_ && span_ % 2 == 1; }

 private:
  // Which blocks of input channels each block of filters reads: all, or with groups those of its filters' groups.
  void reach(const Value& in, const Value& out, int channels, int of_group, int groups) {
    first_.assign(filter_blocks_, 0);
    span_ = in.blocks();
    if (groups == 1) return;
    std::vector<int> last(filter_blocks_, -1);
    first_.assign(filter_blocks_, in.blocks());
    const std::vector<int> to = in.places(), from = out.places();
    for (int f = 0; f < out.channels(); ++f) {
      const int block = from[f] / kLanes, group = f / of_group;
      first_[block] = std::min(first_[block], to[group * channels] / in.lanes);
      last[block] = std::max(last[block], to[(group + 1) * channels - 1] / in.lanes);
    }
    span_ = 1;
    for (int b = 0; b < filter_blocks_; ++b) {
      if (pairs_) first_[b] -= first_[b] % 2;
      span_ = std::max(span_, last[b] - first_[b] + 1);
    }
    if (pairs_) span_ += span_ % 2;  // the pair's second block may be another group's
  }

  // Every two products of 16 filters from floats to two pieces of each: [piece][filter][product].
  void split() {
    constexpr int kPair = 2 * kLanes;
    uint16_t halves[2 * kPair];
    for (float* pair = data_.data(); pair + kPair <= data_.data() + data_.size(); pair += kPair) {
      for (int i = 0; i < kPair; ++i) {
        const int to = i % kLanes * 2 + i / kLanes;
        halves[to] = to_half(pair[i]);
        halves[kPair + to] = to_half(pair[i] - to_float(halves[to]));
      }
      std::memcpy(pair, halves, sizeof(halves));
    }
  }

  // The nearest bfloat16, ties to the even one.
  static uint16_t to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static float to_float(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

  static constexpr float kMostOfPieces = 3.38e38f;

  Buffer data_;
  ptrdiff_t stride_ = 0;
  int lanes_, kernel_w_, taps_;
  bool pairs_, has_pieces_ = true;
  int filter_blocks_, row_ = 0, span_ = 0;
  std::vector<int> first_;
};

}  // namespace tapernet
