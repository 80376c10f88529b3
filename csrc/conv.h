// A convolution that computes everything; a fully connected layer is one whose kernel is the whole image.
#pragma once

#include "op.h"
#include "window.h"

namespace tapernet {

// Filters in PyTorch's order, [filter][channel of its group][kernel_h][kernel_w], packed so that every budget reads a
// prefix in place: [16 filters][16 input channels][kernel_h][kernel_w][channel][filter].
class PackedFilters {
 public:
  PackedFilters(const float* weight, const Value& in, const Value& out, const Sliding& window, int groups)
      : filter_blocks_(out.blocks()) {
    const int channels = in.channels() / groups, filters = out.channels(), of_group = filters / groups;
    const int taps = window.taps();
    reach(in, out, channels, of_group, groups);
    stride_ = static_cast<ptrdiff_t>(span_) * taps * in.lanes * kLanes;
    data_ = Buffer(static_cast<size_t>(filter_blocks_) * stride_);
    const std::vector<int> to = places(in), from = places(out);
    for (int f = 0; f < filters; ++f) {
      const int slot = from[f], block = slot / kLanes;
      for (int c = 0; c < channels; ++c) {
        const int place = to[f / of_group * channels + c] - first_[block] * in.lanes;
        for (int t = 0; t < taps; ++t) {
          const ptrdiff_t at = (static_cast<ptrdiff_t>(place / in.lanes) * taps + t) * in.lanes + place % in.lanes;
          data_.data()[block * stride_ + at * kLanes + slot % kLanes] =
              weight[(static_cast<ptrdiff_t>(f) * channels + c) * taps + t];
        }
      }
    }
  }

  const float* data() const { return data_.data(); }
  ptrdiff_t stride() const { return stride_; }
  int first(int filter_block) const { return first_[filter_block]; }
  int span() const { return span_; }
  size_t bytes() const { return data_.bytes(); }

  // Of each channel, its place when every run starts in a block of its own.
  static std::vector<int> places(const Value& value) {
    std::vector<int> result;
    int block = 0;
    for (const Run& run : value.runs) {
      for (int i = 0; i < run.size; ++i) result.push_back(block * value.lanes + i);
      block += divide_up(run.size, value.lanes);
    }
    return result;
  }

 private:
  // Which blocks of input channels each block of filters reads: all, or with groups those of its filters' groups.
  void reach(const Value& in, const Value& out, int channels, int of_group, int groups) {
    first_.assign(filter_blocks_, 0);
    span_ = in.blocks();
    if (groups == 1) return;
    std::vector<int> last(filter_blocks_, -1);
    first_.assign(filter_blocks_, in.blocks());
    const std::vector<int> to = places(in), from = places(out);
    for (int f = 0; f < out.channels(); ++f) {
      const int block = from[f] / kLanes, group = f / of_group;
      first_[block] = std::min(first_[block], to[group * channels] / in.lanes);
      last[block] = std::max(last[block], to[(group + 1) * channels - 1] / in.lanes);
    }
    span_ = 1;
    for (int b = 0; b < filter_blocks_; ++b) span_ = std::max(span_, last[b] - first_[b] + 1);
  }

  Buffer data_;
  ptrdiff_t stride_ = 0;
  int filter_blocks_, span_ = 0;
  std::vector<int> first_;
};

// Where the patches and results of a stretch of output pixels lie, over the images of a call as one long row.
class PixelPointers {
 public:
  static constexpr int kMost = 384;

  void fill(const Workspace& w, const View& in, const View& out, const Sliding& window, int first, int count) {
    const int of_image = out.layout.height * out.layout.width;
    int image = first / of_image, y = first % of_image / out.layout.width, x = first % out.layout.width;
    for (int i = 0; i < count; ++i) {
      inputs[i] = in.image(w, image) + window.patch(in.layout, y, x);
      outputs[i] = out.image(w, image) + out.layout.pixel(y, x);
      if (++x < out.layout.width) continue;
      x = 0;
      if (++y < out.layout.height) continue;
      y = 0;
      ++image;
    }
  }

  const float* inputs[kMost];
  float* outputs[kMost];
};

class ConvStep : public Step {
 public:
  ConvStep(const PackedFilters& filters, const Sliding& window, const Epilogue& epilogue, const Value& value,
           bool grouped, const Context& c)
      : dense_(c.kernels.dense), in_(c.inputs[0]), out_(c.output), window_(window), filters_(filters),
        finish_(epilogue, value, c) {
    each_block(out_.kept, [&](int block) {
      if (!parts_.empty() && !grouped && parts_.back().end == block) {
        ++parts_.back().end;
        return;
      }
      Part part{block, block + 1, {}, {}};
      const int first = filters.first(block);
      part.segments = tapernet::segments(window, in_, first, first + filters.span(), kLanes, false);
      part.chunks = chunk_bounds(part.segments, kChunkProducts);
      parts_.push_back(std::move(part));
    });
    for (const Part& part : parts_) {
      const double filters = static_cast<double>(part.end - part.begin) * kLanes;
      for (const Segment& s : part.segments) products_ += s.length * filters;
    }
    pixels_ = filters.bytes() > kLargeWeights ? PixelPointers::kMost : kPixels;
  }

  void run(Workspace& w, int images) const override {
    const int total = images * out_.layout.height * out_.layout.width, stretches = divide_up(total, pixels_);
    const bool worth_dividing = static_cast<double>(total) * products_ > kWorthDividing;
    if (w.helpers == 0 || !worth_dividing) {
      for (int i = 0; i < stretches; ++i) compute(w, total, i, 0, 1);
      return;
    }
    const int shares = divide_up(w.helpers + 1, stretches);  // of the filters, where there are few pixels
    w.divide(stretches * shares, [&](int i) { compute(w, total, i / shares, i % shares, shares); });
  }
  size_t bytes() const override { return finish_.bytes(); }

 private:
  static constexpr int kChunkProducts = 320;          // 16 filters of them are 20 KB
  static constexpr int kPixels = 96;
  static constexpr double kWorthDividing = 1e6;       // products; waking a thread takes some ten microseconds
  static constexpr size_t kLargeWeights = 1 << 20;    // more than the second cache likes to hold

  // Blocks of filters that read the same inputs.
  struct Part {
    int begin, end;
    std::vector<Segment> segments;
    std::vector<int> chunks;
  };

  // One stretch of pixels for one share of the filters.
  void compute(const Workspace& w, int total, int stretch, int share, int shares) const {
    const int first = stretch * pixels_, count = std::min(pixels_, total - first);
    PixelPointers pixels;
    pixels.fill(w, in_, out_, window_, first, count);
    for (const Part& part : parts_) {
      const int blocks = part.end - part.begin;
      const int begin = part.begin + blocks * share / shares, end = part.begin + blocks * (share + 1) / shares;
      dense_({pixels.inputs, pixels.outputs, count, part.segments.data(), part.chunks.data(),
              static_cast<int>(part.chunks.size()) - 1, filters_.data(), filters_.stride(), begin, end,
              out_.layout.block(), finish_.scale.data(), finish_.shift.data(), finish_.low, finish_.high});
    }
  }

  void (*dense_)(const DenseCall&);
  View in_, out_;
  Sliding window_;
  const PackedFilters& filters_;
  Finish finish_;
  std::vector<Part> parts_;
  int pixels_;
  double products_ = 0;  // of one output pixel
};

class Conv : public Op {
 public:
  // One set of weights, or one for each range of budgets.
  // With `whole`, the kernel must be the whole image.
  Conv(const std::vector<const float*>& weights, const Value& in, const Value& out, const Sliding& window, int groups,
       bool whole, Epilogue epilogue)
      : out_(out), window_(window), groups_(groups), whole_(whole), epilogue_(std::move(epilogue)) {
    for (const float* weight : weights) filters_.emplace_back(weight, in, out, window, groups);
  }

  Size output_size(const std::vector<Size>& in) const override {
    const Size out = window_.output(in[0]);
    if (whole_ && (out.height != 1 || out.width != 1)) {
      throw std::invalid_argument(name + ": the image has another size than the layer has weights for");
    }
    return out;
  }
  std::unique_ptr<Step> plan(const Context& c) const override {
    const PackedFilters& filters = filters_[filters_.size() > 1 ? c.setting.range : 0];
    return std::make_unique<ConvStep>(filters, window_, epilogue_, out_, groups_ > 1, c);
  }
  size_t bytes() const override {
    size_t sum = epilogue_.bytes();
    for (const PackedFilters& f : filters_) sum += f.bytes();
    return sum;
  }

 private:
  Value out_;
  Sliding window_;
  int groups_;
  bool whole_;
  Epilogue epilogue_;
  std::vector<PackedFilters> filters_;
};

}  // namespace tapernet
