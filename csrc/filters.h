// The filters of a convolution, packed so that every budget reads a prefix of them in place.
#pragma once

#include "buffer.h"
#include "window.h"

namespace tapernet {

// Filters in PyTorch's order, [filter][channel of its group][kernel_h][kernel_w], packed so that every budget reads a
// prefix in place: [16 filters][16 input channels][kernel_h][kernel_w][channel][filter].
class PackedFilters {
 public:
  PackedFilters(const float* weight, const Value& in, const Value& out, const Sliding& window, int groups)
      : lanes_(in.lanes), kernel_w_(window.kernel_w), taps_(window.taps()), filter_blocks_(out.blocks()) {
    const int channels = in.channels() / groups, filters = out.channels(), of_group = filters / groups;
    row_ = kernel_w_ * lanes_;
    reach(in, out, channels, of_group, groups);
    stride_ = static_cast<ptrdiff_t>(span_) * window.kernel_h * row_ * kLanes;
    data_ = Buffer(static_cast<size_t>(filter_blocks_) * stride_);
    const std::vector<int> to = in.places(), from = out.places();
    for (int f = 0; f < filters; ++f) {
      const int slot = from[f], block = slot / kLanes;
      float* const filter = data_.data() + block * stride_ + slot % kLanes;
      for (int c = 0; c < channels; ++c) {
        const int place = to[f / of_group * channels + c] - first_[block] * lanes_;
        for (int t = 0; t < taps_; ++t) {
          const int at = product(place / lanes_, t / kernel_w_, t % kernel_w_) + place % lanes_;
          filter[static_cast<ptrdiff_t>(at) * kLanes] = weight[(static_cast<ptrdiff_t>(f) * channels + c) * taps_ + t];
        }
      }
    }
  }

  const float* data() const { return data_.data(); }
  ptrdiff_t stride() const { return stride_; }
  int first(int filter_block) const { return first_[filter_block]; }
  int span() const { return span_; }
  int blocks() const { return filter_blocks_; }
  size_t bytes() const { return data_.bytes(); }

  // Where in a filter the products of a tap start, for a block of input channels from the filter's first one on.
  int product(int block, int h, int w) const { return (block * taps_ / kernel_w_ + h) * row_ + w * lanes_; }

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
      span_ = std::max(span_, last[b] - first_[b] + 1);
    }
  }

  Buffer data_;
  ptrdiff_t stride_ = 0;
  int lanes_, kernel_w_, taps_;
  int filter_blocks_, row_ = 0, span_ = 0;
  std::vector<int> first_;
};

}  // namespace tapernet
