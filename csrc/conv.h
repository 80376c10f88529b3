// A convolution that computes everything; a fully connected layer is one whose kernel is the whole image.
#pragma once

#include <algorithm>

#include "division.h"

namespace tapernet {

// By vectors of floats.
class VectorStep : public DividedStep {
 public:
  explicit VectorStep(const Layer& l)
      : DividedStep(l), pixels_(large(filters_) ? Stretch::kMost : kPixels),
        divisions_(window_, in_.layout, out_.layout, pixels_, kPace, Cuts::both) {
    for (const Part& part : parts_) {
      products_.emplace_back();
      for (size_t i = 0; i < divisions_.size(); ++i) {
        products_.back().push_back(products(divisions_[i], part.first_input));
      }
    }
  }

  void run(Workspace& w, int images) const override {
    const size_t best = divisions_.best(images);
    const int total = images * out_.layout.height * out_.layout.width;
    const Work work = this->work(w, images, divide_up(total, pixels_));
    each_task(w, work, [&](int stretch, int share, int) {
      const int first = stretch * pixels_;
      compute(w, best, first, std::min(pixels_, total - first), share, work.shares);
    });
  }
  size_t bytes() const override {
    size_t sum = finish_.bytes();
    for (const auto& of_part : products_) {
      for (const std::vector<Products>& of_division : of_part) {
        for (const Products& p : of_division) {
          sum += p.segments.size() * sizeof(Segment) + p.chunks.size() * sizeof(int);
        }
      }
    }
    return sum;
  }

 private:
  static constexpr int kChunkProducts = 320;  // 16 filters of them are 20 KB
  static constexpr int kPixels = 96;
  static constexpr Pace kPace{6, 4};  // the kernels take six pixels at a time, or eight

  // What a filter multiplies in one area.
  struct Products {
    std::vector<Segment> segments;
    std::vector<int> chunks;
  };

  // Every area's chunks begin at the same weights, so that these are read once for all areas.
  std::vector<Products> products(const Division& division, int first) const {
    const auto of = [&](const Area& area) {
      return segments(window_, area, in_, first, first + filters_.span(), kLanes, false,
                      [&](int block, int h, int w) { return filters_.product(block, h, w) * kLanes; });
    };
    const Area whole = whole_area(window_, {out_.layout.height, out_.layout.width});
    const std::vector<Segment> all = of(whole);
    const std::vector<int> bounds = chunk_bounds(all, kChunkProducts);
    std::vector<Products> result;
    for (const Area& area : division.areas) {
      Products p{of(area), {0}};
      for (size_t i = 1; i + 1 < bounds.size(); ++i) {
        const auto before = [&](const Segment& s) { return s.weight < all[bounds[i]].weight; };
        const auto at = std::partition_point(p.segments.begin(), p.segments.end(), before);
        p.chunks.push_back(static_cast<int>(at - p.segments.begin()));
      }
      p.chunks.push_back(static_cast<int>(p.segments.size()));
      result.push_back(std::move(p));
    }
    return result;
  }

  // One stretch of pixels for one share of the filters.
  void compute(const Workspace& w, size_t division, int first, int count, int share, int shares) const {
    const float* inputs[Stretch::kMost];
    float* outputs[Stretch::kMost];
    const Stretch pixels(output(), divisions_[division], first, count, [&](int at, int image, int row, int column) {
      inputs[at] = in_.image(w, image) + window_.patch(in_.layout, row, column);
      outputs[at] = out_.image(w, image) + out_.layout.pixel(row, column);
    });
    for (size_t p = 0; p < parts_.size(); ++p) {
      const Part& part = parts_[p];
      const auto [begin, end] = part.share(share, shares);
      if (begin == end) continue;
      const std::vector<Products>& products = products_[p][division];
      PixelGroup groups[Division::kMostAreas];
      int count_groups = 0;
      for (int a : divisions_[division].order) {
        if (pixels.begin[a] == pixels.begin[a + 1]) continue;
        groups[count_groups++] = {pixels.begin[a], pixels.begin[a + 1], products[a].segments.data(),
                                  products[a].chunks.data()};
      }
      kernels_.dense({inputs, outputs, groups, count_groups,
                      static_cast<int>(products[0].chunks.size()) - 1, filters_.data(), filters_.stride(), begin, end,
                      end == part.end ? part.last_filters : kLanes, out_.layout.block(), finish_.scale.data(),
                      finish_.shift.data(), finish_.low, finish_.high, large(filters_) && gains_by_fetching()});
    }
  }

  int pixels_;  // of a stretch, at most
  Divisions divisions_;
  std::vector<std::vector<std::vector<Products>>> products_;  // of each part, division and area
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
    return std::make_unique<VectorStep>(Layer{filters, window_, epilogue_, out_, groups_ > 1, c});
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
