// How the output of a convolution is divided among kernel calls and threads.
#pragma once

#include "filters.h"
#include "op.h"
#include "window.h"

namespace tapernet {

// How a kernel's time depends on how many pixels it is given: that of whole tiles, and a rest as so many at least.
struct Pace {
  int tile, least_rest;
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
      column_end_.insert(column_end_.end(), columns[c].outputs(), static_cast<int>(column_area_.size()));
    }
    for (size_t a = 0; a < areas.size(); ++a) order.push_back(static_cast<int>(a));
    const auto products = [&](int a) { return areas[a].taps() * areas[a].pixels(); };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return products(a) > products(b); });
  }

  int area_of(int y, int x) const { return row_area_[y] + column_area_[x]; }
  // The first column behind that of x which is of another area.
  int column_end(int x) const { return column_end_[x]; }

  // The time that a number of images takes, `together` pixels at a time, as that of so many products.
  double cost(int images, int together, Pace pace) const {
    const int stretches = divide_up(images * static_cast<int>(row_area_.size() * column_area_.size()), together);
    double sum = 0;
    for (const Area& area : areas) {
      const int pixels = images * area.pixels(), of_stretch = std::max(1, pixels / stretches);
      const int rest = of_stretch % pace.tile;
      const double tiles = of_stretch - rest + (rest ? std::max(pace.least_rest, rest) : 0);
      sum += area.taps() * tiles * pixels / of_stretch;
    }
    return sum;
  }

  std::vector<Area> areas;
  std::vector<int> order;  // of areas: the one that reads most weights first, so that the others find them in the cache

 private:
  std::vector<int> row_area_, column_area_, column_end_;
};

// Which divisions a kernel allows: none, those whose areas are as wide as the output, or all.
enum class Cuts { none, rows, both };

// The whole output as one area, and the divisions that pay with one image or with many.
class Divisions {
 public:
  Divisions(const Sliding& window, const Layout& in, const Layout& out, int together, Pace pace, Cuts cuts)
      : together_(together), pace_(pace) {
    const Area whole = whole_area(window, {out.height, out.width});
    add({{whole.rows}, {whole.columns}});
    const std::vector<Band> rows =
        bands(in.height, out.height, window.kernel_h, window.stride_h, window.dilation_h, window.top);
    const std::vector<Band> columns =
        bands(in.width, out.width, window.kernel_w, window.stride_w, window.dilation_w, window.left);
    if (cuts != Cuts::none && pays({rows, {whole.columns}})) add({rows, {whole.columns}});
    if (cuts == Cuts::both && pays({rows, columns})) add({rows, columns});
  }

  size_t size() const { return all_.size(); }
  const Division& operator[](size_t i) const { return all_[i]; }

  // The time of the one that takes so many images the least.
  double cost(int images) const { return cost(best(images), images); }
  // Its number.
  size_t best(int images) const {
    size_t best = 0;
    double least = kGain * cost(0, images);
    for (size_t i = 1; i < size(); ++i) {
      if (cost(i, images) < least) best = i, least = cost(i, images);
    }
    return best;
  }

 private:
  static constexpr int kManyImages = 16;  // a division that does not pay with so many never does
  static constexpr double kGain = 0.95;   // what is left of the time; less is lost on smaller pieces

  void add(Division division) { all_.push_back(std::move(division)); }
  double cost(size_t i, int images) const { return all_[i].cost(images, together_, pace_); }
  bool pays(const Division& division) const {
    if (division.areas.size() > Division::kMostAreas) return false;
    const auto pays = [&](int n) { return division.cost(n, together_, pace_) < kGain * cost(0, n); };
    return pays(1) || pays(kManyImages);
  }

  std::vector<Division> all_;
  int together_;
  Pace pace_;
};

// A stretch of output pixels, over the images of a call as one long row, the pixels of each area of a division side by side.
class Stretch {
 public:
  static constexpr int kMost = 384;  // pixels

  // Calls place(at, image, row, column) for every pixel.
  template <class Place>
  Stretch(Size out, const Division& division, int first, int count, Place place) {
    const size_t areas = division.areas.size();
    std::fill_n(begin, areas + 1, 0);
    each_run(out, division, first, count, [&](int area, int, int, int, int pixels) { begin[area + 1] += pixels; });
    int next[Division::kMostAreas];
    for (size_t a = 0; a < areas; ++a) {
      next[a] = begin[a];
      begin[a + 1] += begin[a];
    }
    each_run(out, division, first, count, [&](int area, int image, int row, int column, int pixels) {
      for (int i = 0; i < pixels; ++i) place(next[area] + i, image, row, column + i);
      next[area] += pixels;
    });
  }

  int begin[Division::kMostAreas + 1];  // of each area's pixels

 private:
  // Calls f(area, image, row, column, pixels) for neighbours in a row that are of one area.
  template <class F>
  static void each_run(Size out, const Division& division, int first, int count, F f) {
    const int of_image = out.height * out.width;
    int image = first / of_image, y = first % of_image / out.width, x = first % out.width;
    while (count > 0) {
      const int pixels = std::min(count, division.column_end(x) - x);
      f(division.area_of(y, x), image, y, x, pixels);
      count -= pixels;
      if ((x += pixels) < out.width) continue;
      x = 0;
      if (++y < out.height) continue;
      y = 0;
      ++image;
    }
  }
};

// What the steps of a convolution are made from.
struct Layer {
  const PackedFilters& filters;
  const Sliding& window;
  const Epilogue& epilogue;
  const Value& value;  // the output
  bool grouped;
  const Context& context;
};

// A convolution that computes everything, by stretches of pixels and shares of the filters.
class DividedStep : public Step {
 public:
  explicit DividedStep(const Layer& l)
      : kernels_(l.context.kernels), in_(l.context.inputs[0]), out_(l.context.output), window_(l.window),
        filters_(l.filters), finish_(l.epilogue, l.value, l.context) {
    list_parts(l.grouped);
    const double filters_kept = channels(out_.kept), taps = window_.taps();
    products_ = std::min(channels(in_.kept), filters_.span() * in_.layout.lanes) * taps * filters_kept;
  }

 protected:
  // Blocks of filters that read the same inputs.
  struct Part {
    int begin, end;
    int last_filters;  // that the budget keeps of the last block
    int first_input;   // block of the input

    // Those of one share.
    std::pair<int, int> share(int i, int shares) const {
      const int blocks = end - begin;
      return {begin + blocks * i / shares, begin + blocks * (i + 1) / shares};
    }
  };

  static bool large(const PackedFilters& filters) { return filters.bytes() > kLargeWeights; }
  // Whether large weights come sooner if they are fetched ahead. AMD's processors foresee several streams by themselves, and
  // lose by it: a seventh of VGG-16's time at half its channels on Zen 5, where an Intel Xeon gains a sixth.
  static bool gains_by_fetching() {
#if defined(__x86_64__)
    static const bool gains = !__builtin_cpu_is("amd");
    return gains;
#else
    return true;
#endif
  }
  Size output() const { return {out_.layout.height, out_.layout.width}; }

  // How many threads work, on how many tasks: stretches, or shares of the filters where there are few of those.
  struct Work {
    int stretches, shares, threads;
  };
  Work work(const Workspace& w, int images, int stretches) const {
    const double total = static_cast<double>(images) * out_.layout.height * out_.layout.width * products_;
    const int most = w.helpers > 0 && total > kWorthDividing ? w.helpers + 1 : 1;
    const int shares = divide_up(most, stretches);
    return {stretches, shares, std::min(most, stretches * shares)};
  }
  // Calls f(stretch, share, thread) for all of them.
  template <class F>
  static void each_task(const Workspace& w, const Work& work, F f) {
    w.divide(work.threads, [&](int thread) {
      for (int i = thread; i < work.stretches * work.shares; i += work.threads) f(i / work.shares, i % work.shares, thread);
    });
  }

  const Kernels& kernels_;
  View in_, out_;
  Sliding window_;
  const PackedFilters& filters_;
  Finish finish_;
  std::vector<Part> parts_;

 private:
  // With groups, every block is a part of its own.
  void list_parts(bool grouped) {
    for (const Kept& run : out_.kept) {
      for (int b = 0; b < run.blocks(); ++b) {
        const int block = run.first_block + b, kept = std::min(kLanes, run.channels - b * kLanes);
        if (!parts_.empty() && !grouped && parts_.back().end == block) {
          ++parts_.back().end;
          parts_.back().last_filters = kept;
        } else {
          parts_.push_back({block, block + 1, kept, filters_.first(block)});
        }
      }
    }
  }

  static constexpr double kWorthDividing = 1e6;     // products; waking a thread takes some ten microseconds
  static constexpr size_t kLargeWeights = 1 << 20;  // more than the second cache likes to hold

  double products_;  // of one output pixel
};

}  // namespace tapernet
