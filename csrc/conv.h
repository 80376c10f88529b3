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

// The output, divided so that few pixels multiply by the border's zeros: pixels of an area read the same taps.
class Division {
 public:
  static constexpr int kMostAreas = 64;

  Division(const std::vector<Band>& rows, const std::vector<Band>& columns) {
    for (const Band& r : rows) {
      row_area_.insert(row_area_.end(), r.outputs(), static_cast<int>(areas.size()));
      for (const Band& c : columns) areas.push_back({r, c});
    }
    for (size_t c = 0; c < columns.size(); ++c) {
      column_area_.insert(column_area_.end(), columns[c].outputs(), static_cast<int>(c));
    }
    for (size_t a = 0; a < areas.size(); ++a) order.push_back(static_cast<int>(a));
    const auto products = [&](int a) { return areas[a].taps() * areas[a].pixels(); };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return products(a) > products(b); });
  }

  int area_of(int y, int x) const { return row_area_[y] + column_area_[x]; }

  // The time that a number of images takes, `together` pixels at a time, as that of so many products.
  double cost(int images, int together) const {
    const int stretches = divide_up(images * static_cast<int>(row_area_.size() * column_area_.size()), together);
    double sum = 0;
    for (const Area& area : areas) {
      const int pixels = images * area.pixels(), of_stretch = std::max(1, pixels / stretches);
      // The kernels take six pixels at a time, or eight; fewer than four take as long as four.
      const int rest = of_stretch % kTile;
      const double tiles = of_stretch - rest + (rest ? std::max(4, rest) : 0);
      sum += area.taps() * tiles * pixels / of_stretch;
    }
    return sum;
  }

  std::vector<Area> areas;
  std::vector<int> order;  // of areas: the one that reads most weights first, so that the others find them in the cache

 private:
  static constexpr int kTile = 6;
  std::vector<int> row_area_, column_area_;
};

// Where the patches and results of a stretch of output pixels lie, over the images of a call as one long row; the
// pixels of each area of a division side by side.
class PixelPointers {
 public:
  static constexpr int kMost = 384;

  void fill(const Workspace& w, const View& in, const View& out, const Sliding& window, const Division& division,
            int first, int count) {
    const int width = out.layout.width, of_image = out.layout.height * width;
    const int image = first / of_image, y = first % of_image / width, x = first % width;
    const size_t areas = division.areas.size();
    std::fill_n(begin, areas + 1, 0);
    if (areas == 1) {
      begin[1] = count;
    } else {
      const auto add = [&](int, int row, int column) { ++begin[division.area_of(row, column) + 1]; };
      each_pixel(out, image, y, x, count, add);
      for (size_t a = 0; a < areas; ++a) begin[a + 1] += begin[a];
    }
    int next[Division::kMostAreas];
    std::copy_n(begin, areas, next);
    each_pixel(out, image, y, x, count, [&](int image, int row, int column) {
      const int at = next[division.area_of(row, column)]++;
      inputs[at] = in.image(w, image) + window.patch(in.layout, row, column);
      outputs[at] = out.image(w, image) + out.layout.pixel(row, column);
    });
  }

  const float* inputs[kMost];
  float* outputs[kMost];
  int begin[Division::kMostAreas + 1];  // of each area's pixels

 private:
  template <class F>
  static void each_pixel(const View& out, int image, int y, int x, int count, F f) {
    for (int i = 0; i < count; ++i) {
      f(image, y, x);
      if (++x < out.layout.width) continue;
      x = 0;
      if (++y < out.layout.height) continue;
      y = 0;
      ++image;
    }
  }
};

class ConvStep : public Step {
 public:
  ConvStep(const PackedFilters& filters, const Sliding& window, const Epilogue& epilogue, const Value& value,
           bool grouped, const Context& c)
      : dense_(c.kernels.dense), in_(c.inputs[0]), out_(c.output), window_(window), filters_(filters),
        finish_(epilogue, value, c) {
    pixels_ = filters.bytes() > kLargeWeights ? PixelPointers::kMost : kPixels;
    choose_divisions();
    for (const Kept& run : out_.kept) {
      for (int b = 0; b < run.blocks(); ++b) {
        add(run.first_block + b, std::min(kLanes, run.channels - b * kLanes), grouped);
      }
    }
    for (const Part& part : parts_) {
      const double filters = static_cast<double>(part.end - part.begin) * kLanes;
      for (const Segment& s : part.products[0][0].segments) products_ += s.length * filters;
    }
  }

  void run(Workspace& w, int images) const override {
    size_t best = 0;
    double least = kGain * divisions_[0].cost(images, pixels_);
    for (size_t i = 1; i < divisions_.size(); ++i) {
      const double cost = divisions_[i].cost(images, pixels_);
      if (cost < least) best = i, least = cost;
    }
    const int total = images * out_.layout.height * out_.layout.width, stretches = divide_up(total, pixels_);
    const bool worth_dividing = static_cast<double>(total) * products_ > kWorthDividing;
    if (w.helpers == 0 || !worth_dividing) {
      for (int i = 0; i < stretches; ++i) compute(w, total, best, i, 0, 1);
      return;
    }
    const int shares = divide_up(w.helpers + 1, stretches);  // of the filters, where there are few pixels
    w.divide(stretches * shares, [&](int i) { compute(w, total, best, i / shares, i % shares, shares); });
  }
  size_t bytes() const override {
    size_t sum = finish_.bytes();
    for (const Part& part : parts_) {
      for (const std::vector<Products>& of_division : part.products) {
        for (const Products& p : of_division) {
          sum += p.segments.size() * sizeof(Segment) + p.chunks.size() * sizeof(int);
        }
      }
    }
    return sum;
  }

 private:
  static constexpr int kChunkProducts = 320;          // 16 filters of them are 20 KB
  static constexpr int kPixels = 96;
  static constexpr double kWorthDividing = 1e6;       // products; waking a thread takes some ten microseconds
  static constexpr size_t kLargeWeights = 1 << 20;    // more than the second cache likes to hold
  static constexpr int kManyImages = 16;              // a division that does not pay with so many never does
  static constexpr double kGain = 0.95;               // what is left of the time; less is lost on smaller pieces

  // What a filter multiplies in one area.
  struct Products {
    std::vector<Segment> segments;
    std::vector<int> chunks;
  };
  // Blocks of filters that read the same inputs.
  struct Part {
    int begin, end;
    int last_filters;  // that the budget keeps of the last block
    std::vector<std::vector<Products>> products;  // of each division, each area
  };

  // A block of filters to a part, which may be one of its own.
  void add(int block, int filters, bool grouped) {
    if (!parts_.empty() && !grouped && parts_.back().end == block) {
      ++parts_.back().end;
      parts_.back().last_filters = filters;
      return;
    }
    Part part{block, block + 1, filters, {}};
    for (const Division& division : divisions_) part.products.push_back(products(division, filters_.first(block)));
    parts_.push_back(std::move(part));
  }

  // The whole output as one area first, then divisions that pay with one image or with many.
  void choose_divisions() {
    const Layout &in = in_.layout, &out = out_.layout;
    const Area whole = whole_area(window_, {out.height, out.width});
    divisions_.emplace_back(std::vector<Band>{whole.rows}, std::vector<Band>{whole.columns});
    const std::vector<Band> rows =
        bands(in.height, out.height, window_.kernel_h, window_.stride_h, window_.dilation_h, window_.top);
    const std::vector<Band> columns =
        bands(in.width, out.width, window_.kernel_w, window_.stride_w, window_.dilation_w, window_.left);
    for (const Division& division : {Division(rows, {whole.columns}), Division(rows, columns)}) {
      const auto pays = [&](int n) { return division.cost(n, pixels_) < kGain * divisions_[0].cost(n, pixels_); };
      const bool few = division.areas.size() <= Division::kMostAreas;
      if (few && (pays(1) || pays(kManyImages))) divisions_.push_back(division);
    }
  }

  // Every area's chunks begin at the same weights, so that these are read once for all areas.
  std::vector<Products> products(const Division& division, int first) const {
    const auto of = [&](const Area& area) {
      return segments(window_, area, in_, first, first + filters_.span(), kLanes, false);
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
  void compute(const Workspace& w, int total, size_t number, int stretch, int share, int shares) const {
    const Division& division = divisions_[number];
    const int first = stretch * pixels_, count = std::min(pixels_, total - first);
    PixelPointers pixels;
    pixels.fill(w, in_, out_, window_, division, first, count);
    for (const Part& part : parts_) {
      const int blocks = part.end - part.begin;
      const int begin = part.begin + blocks * share / shares, end = part.begin + blocks * (share + 1) / shares;
      if (begin == end) continue;
      const std::vector<Products>& products = part.products[number];
      PixelGroup groups[Division::kMostAreas];
      int count_groups = 0;
      for (int a : division.order) {
        if (pixels.begin[a] == pixels.begin[a + 1]) continue;
        groups[count_groups++] = {pixels.begin[a], pixels.begin[a + 1], products[a].segments.data(),
                                  products[a].chunks.data()};
      }
      dense_({pixels.inputs, pixels.outputs, groups, count_groups, static_cast<int>(products[0].chunks.size()) - 1,
              filters_.data(), filters_.stride(), begin, end, end == part.end ? part.last_filters : kLanes,
              out_.layout.block(), finish_.scale.data(), finish_.shift.data(), finish_.low, finish_.high,
              filters_.bytes() > kLargeWeights});
    }
  }

  void (*dense_)(const DenseCall&);
  View in_, out_;
  Sliding window_;
  const PackedFilters& filters_;
  Finish finish_;
  std::vector<Division> divisions_;
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
