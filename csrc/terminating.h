// A convolution whose filters stop at a check (early-termination paper, section 4), with its ReLU.
#pragma once

#include <cmath>
#include <optional>

#include "conv.h"

namespace tapernet {

// What a terminating convolution keeps beside its filters.
struct Checks {
  std::vector<std::vector<float>> thresholds;  // [check][filter]
  std::vector<float> start;                    // of each filter's partial sums: zero, or its bias
  std::vector<float> bias;                     // zeros if there is none
  bool has_bias;
  std::vector<float> input_size;               // E|x| by the input channel's place, for the order |w| E|x|; or empty
  float high;                                  // results above it become it
  bool emits;                                  // whether a partial sum can be stopped above zero, and so matter
  // If the one check is of the sum of all products in eight bits: what each filter's weights are rounded to multiples of.
  std::vector<float> steps;
};

// The input that a strip of output rows reads: of each channel and each column of the kernel a plane, in which an output
// finds what it multiplies at its own column. So a tap's inputs are whole vectors for neighbouring outputs, at any stride.
struct Planes {
  int columns;   // of the output, in whole tiles
  int rows;      // of the input that a strip reads
  int of_strip;  // rows of the output
  int kernel_w;
  int apart;     // floats of a row whose channels lie apart

  Planes(const Sliding& s, const Layout& in, const Layout& out, int channels, int tile_rows, int tile_columns)
      : columns(divide_up(out.width, tile_columns) * tile_columns), kernel_w(s.kernel_w) {
    const int read = (columns - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
    apart = std::max(read, in.width + 2 * in.halo);
    const auto rows_of = [&](int tiles) { return s.rows_read(tiles * tile_rows); };
    const int all = divide_up(out.height, tile_rows);
    int tiles = 1;
    while (tiles < all && rows_of(tiles + 1) * columns * kernel_w * channels <= kStripFloats) ++tiles;
    of_strip = tiles * tile_rows;
    rows = rows_of(tiles);
  }
  ptrdiff_t row() const { return columns; }
  ptrdiff_t plane() const { return round_up(rows * columns, kLanes); }
  ptrdiff_t channel() const { return kernel_w * plane(); }

 private:
  static constexpr int kStripFloats = 128 * 1024;  // half a megabyte, of the second cache
};

// The outputs of a convolution that a tile of 64 neighbours cannot do without, each a dot product; the others are zero.
class SparseStep : public Step {
 public:
  // A tile's outputs lie in memory with the 16 filters of a block innermost, or its 64 pixels.
  enum class Innermost { filters, pixels };

  SparseStep(const Buffer& filters, ptrdiff_t stride, const Sliding& window, const Checks& checks, const Context& c,
             Innermost innermost)
      : kernels_(c.kernels), in_(c.inputs[0]), out_(c.output), window_(window), checks_(checks),
        columns_(out_.layout.width >= 32 ? 32 : out_.layout.width >= 16 ? 16 : 8), filters_(filters), stride_(stride),
        innermost_(innermost) {
    const Area all = whole_area(window, {out_.layout.height, out_.layout.width});
    segments_ = segments(window, all, in_, 0, in_.layout.blocks, 1, true);
    const int length = segments_.empty() ? 0 : segments_[0].length;
    const auto alike = [&](const Segment& s) { return s.length == length; };
    blocks_ = std::all_of(segments_.begin(), segments_.end(), alike) ? length / kLanes : 0;
    const int at_once = std::max(1, kCacheFloats / (rows_read() * columns_read())) * window.taps();
    survivor_chunks_ = chunk_bounds(segments_, at_once);
    for (int i = 0; i < kTilePixels; ++i) {
      const ptrdiff_t from_first = window.patch(in_.layout, i / columns_, i % columns_) - window.patch(in_.layout, 0, 0);
      pixels_[i] = static_cast<int32_t>(from_first);
    }
    for (const Kept& run : out_.kept) {
      if (run.first_block != 0) throw std::logic_error("a terminating convolution writes one run of channels");
      kept_filters_ = run.channels;
    }
    if (survivor_chunks_.size() > 2) {
      together_ = std::max(1, std::min(kMostTogether, static_cast<int>(kSumsFloats / std::max<size_t>(1, tile_floats()))));
    }
  }

 protected:
  // What a tile of the output reads of the input.
  int rows_read() const { return window_.rows_read(tile_rows()); }
  int columns_read() const {
    return (columns_ - 1) * window_.stride_w + (window_.kernel_w - 1) * window_.dilation_w + 1;
  }
  int tile_rows() const { return kTilePixels / columns_; }
  size_t filter_slots() const { return static_cast<size_t>(out_.layout.blocks) * kLanes; }
  size_t tile_floats() const { return filter_slots() * kTilePixels; }

  // Which of the tile's pixels lie in the image.
  uint64_t existing(int y, int x) const {
    const int columns = std::min(columns_, out_.layout.width - x), rows = std::min(tile_rows(), out_.layout.height - y);
    uint64_t result = 0;
    for (int row = 0; row < rows; ++row) result |= ((uint64_t{1} << columns) - 1) << row * columns_;
    return result;
  }

  // Memory of a tile: its outputs, [block][filter][pixel] or [block][pixel][filter], and which of them are to be
  // computed, [filter].
  struct Memory {
    float* sums;
    uint64_t* alive;
  };
  size_t memory_of_tile() const { return tile_floats() + 2 * filter_slots(); }
  size_t memory_floats() const { return together_ * memory_of_tile(); }

  // Computes the rows [begin, end) of an image's outputs. `look(y, x, memory)` sets a tile's outputs, zero but for those
  // that a check sets, and which of them are to be computed.
  template <class Look>
  void each_tile(Workspace& w, int image, int begin, int end, float* memory, Look look) const {
    Tile tiles[kMostTogether];
    int count = 0;
    for (int y = begin; y < end; y += tile_rows()) {
      for (int x = 0; x < out_.layout.width; x += columns_) {
        float* const of_tile = memory + count * memory_of_tile();
        tiles[count] = {y, x, {of_tile, reinterpret_cast<uint64_t*>(of_tile + tile_floats())}};
        std::fill_n(of_tile, tile_floats(), 0.0f);
        look(y, x, tiles[count].memory);
        if (++count == together_) {
          finish(w, image, tiles, count);
          count = 0;
        }
      }
    }
    finish(w, image, tiles, count);
  }

  const Kernels& kernels_;
  View in_, out_;
  Sliding window_;
  const Checks& checks_;
  int columns_;                  // of a tile
  int32_t pixels_[kTilePixels];  // of a tile: where the patch of each starts, from that of the first
  int kept_filters_ = 0;
  const Buffer& filters_;
  ptrdiff_t stride_;

 private:
  static constexpr float kOnes[kLanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  static constexpr float kZeros[kLanes] = {};
  static constexpr int kCacheFloats = 32 * 1024 / sizeof(float);  // of the first cache, for a tile's inputs
  static constexpr size_t kSumsFloats = 256 * 1024 / sizeof(float);  // of the second cache, for tiles' outputs
  static constexpr int kMostTogether = 4;

  struct Tile {
    int y, x;
    Memory memory;
  };

  // Computes the outputs of tiles that are alive, and writes all of them. A chunk after the other, since the second cache
  // need then hold the weights of one alone.
  void finish(Workspace& w, int image, const Tile* tiles, int count) const {
    for (size_t chunk = 0; chunk + 1 < survivor_chunks_.size(); ++chunk) {
      for (const Tile* t = tiles; t < tiles + count; ++t) {
        const float* const patch = in_.image(w, image) + window_.patch(in_.layout, t->y, t->x);
        kernels_.survivors({t->memory.alive, kept_filters_, patch, pixels_, segments_.data() + survivor_chunks_[chunk],
                            survivor_chunks_[chunk + 1] - survivor_chunks_[chunk], blocks_, filters_.data(), stride_,
                            chunk == 0 ? checks_.bias.data() : nullptr, t->memory.sums,
                            by_pixel() ? 1 : kTilePixels, by_pixel() ? kLanes : 1});
      }
    }
    for (const Tile* t = tiles; t < tiles + count; ++t) write(w, image, t->y, t->x, t->memory.sums);
  }

  bool by_pixel() const { return innermost_ == Innermost::filters; }

  // ReLU, and the filters of a block innermost, if they are not.
  void write(Workspace& w, int image, int y, int x, const float* sums) const {
    const int columns = std::min(columns_, out_.layout.width - x), rows = std::min(tile_rows(), out_.layout.height - y);
    for (int block = 0; block * kLanes < kept_filters_; ++block) {
      float* out = out_.image(w, image) + block * out_.layout.block() + out_.layout.pixel(y, x);
      const float* from = sums + static_cast<ptrdiff_t>(block) * kLanes * kTilePixels;
      for (int i = 0; i < rows; ++i, out += out_.layout.row()) {
        const float* const row = from + i * columns_ * (by_pixel() ? kLanes : 1);
        if (!by_pixel()) kernels_.interleave(row, kTilePixels, kLanes, columns, out, kLanes);
        kernels_.affine(by_pixel() ? row : out, out, columns, kOnes, kZeros, 0.0f, checks_.high);
      }
    }
  }

  Innermost innermost_;
  std::vector<Segment> segments_;
  std::vector<int> survivor_chunks_;
  int blocks_ = 0;  // of 16 in every segment, if they are alike
  int together_ = 1;  // tiles
};

// Sums that stop at checks on the way.
class TerminatingStep : public SparseStep {
 public:
  TerminatingStep(const Buffer& filters, ptrdiff_t stride, const Sliding& window, const Checks& checks,
                  const std::vector<std::vector<int>>& positions, const Context& c)
      : SparseStep(filters, stride, window, checks, c, Innermost::pixels),
        planes_(window, in_.layout, out_.layout, channels(in_.kept), tile_rows(), columns_) {
    list_channels();
    const int together = std::max(1, kPlanesFloats / (rows_read() * columns_ * window.kernel_w));
    tap_chunks_ = divide_up(static_cast<int>(channels_.size()), together);
    choose_taps(positions);
  }

  void run(Workspace& w, int images) const override {
    float* const partial = w.scratch.data() + planes_floats() + apart_floats();
    for (int image = 0; image < images; ++image) {
      for (int strip = 0; strip < out_.layout.height; strip += planes_.of_strip) {
        fill_planes(w, image, strip);
        const int end = std::min(out_.layout.height, strip + planes_.of_strip);
        each_tile(w, image, strip, end, partial + tile_floats(), [&](int y, int x, const Memory& m) {
          check_tile(w.scratch.data(), partial, y, y - strip, x, m);
        });
      }
    }
  }

  size_t scratch_floats(int, int) const override {
    return planes_floats() + apart_floats() + tile_floats() + memory_floats();
  }
  size_t bytes() const override {
    return taps_.size() * sizeof(Tap) + bounds_.size() * sizeof(int32_t) + thresholds_.size() * sizeof(float);
  }

 private:
  // For a tile's planes: a part of them at a time, but sums are put aside for each part.
  static constexpr int kPlanesFloats = 48 * 1024 / sizeof(float);

  size_t planes_floats() const { return channels_.size() * planes_.channel(); }
  size_t apart_floats() const { return static_cast<size_t>(planes_.apart) * kLanes; }

  // The input channels that the budget keeps, by their place in the blocks.
  void list_channels() {
    for (const Kept& run : in_.kept) {
      for (int i = 0; i < run.channels; ++i) channels_.push_back(run.first_block * kLanes + i);
    }
  }

  // Of a filter, its bias included.
  int terms() const { return static_cast<int>(channels_.size()) * window_.taps() + checks_.has_bias; }

  // Of every filter, the taps before each check, grouped by check and chunk of channels. A check that leaves no term to
  // save has none.
  void choose_taps(const std::vector<std::vector<int>>& positions) {
    checks_count_ = static_cast<int>(positions.size());
    std::vector<std::vector<Tap>> of_stage(static_cast<size_t>(checks_count_) * tap_chunks_ * kept_filters_);
    for (int f = 0; f < kept_filters_; ++f) {
      std::vector<int> places;
      for (const std::vector<int>& check : positions) places.push_back(check[f] < terms() ? check[f] : 0);
      std::vector<int> order = largest_first(f, *std::max_element(places.begin(), places.end()));
      int from = 0;
      for (int check = 0; check < checks_count_; ++check) {
        const int to = std::max(from, std::min(static_cast<int>(order.size()), places[check]));
        std::sort(order.begin() + from, order.begin() + to);  // the sum is the same; the memory likes it
        for (; from < to; ++from) {
          const int chunk = order[from] / window_.taps() * tap_chunks_ / static_cast<int>(channels_.size());
          of_stage[(static_cast<size_t>(check) * tap_chunks_ + chunk) * kept_filters_ + f].push_back(
              {static_cast<int32_t>(tap_place(order[from])), weight(f, order[from])});
        }
      }
    }
    bounds_.push_back(0);
    for (const std::vector<Tap>& stage : of_stage) {
      taps_.insert(taps_.end(), stage.begin(), stage.end());
      bounds_.push_back(static_cast<int32_t>(taps_.size()));
    }
    choose_thresholds(positions);
  }

  // The first `count` taps of a filter by the size of their products, ties in the order of memory.
  std::vector<int> largest_first(int filter, int count) const {
    const int total = static_cast<int>(channels_.size()) * window_.taps();
    std::vector<float> score(total);
    std::vector<int> order(total);
    for (int i = 0; i < total; ++i) {
      score[i] = std::fabs(weight(filter, i));
      if (!checks_.input_size.empty()) score[i] *= checks_.input_size[channels_[i / window_.taps()]];
      order[i] = i;
    }
    count = std::min(total, count);
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [&](int a, int b) { return score[a] > score[b] || (score[a] == score[b] && a < b); });
    order.resize(count);
    return order;
  }

  // Of each check and kept filter; where no term is left to save, a filter does not stop.
  void choose_thresholds(const std::vector<std::vector<int>>& positions) {
    for (int check = 0; check < checks_count_; ++check) {
      for (int f = 0; f < kept_filters_; ++f) {
        thresholds_.push_back(positions[check][f] >= terms() ? -INFINITY : checks_.thresholds[check][f]);
      }
    }
  }

  // The i-th weight of a filter, counted over kept channels, kernel rows and columns.
  float weight(int filter, int i) const {
    const int taps = window_.taps(), place = channels_[i / taps];
    return filters_.data()[filter * stride_ + (static_cast<ptrdiff_t>(place / kLanes) * taps + i % taps) * kLanes +
                           place % kLanes];
  }
  ptrdiff_t tap_place(int i) const {
    const int channel = i / window_.taps(), h = i % window_.taps() / window_.kernel_w, w = i % window_.kernel_w;
    return channel * planes_.channel() + w * planes_.plane() + h * window_.dilation_h * planes_.row();
  }

  void fill_planes(Workspace& w, int image, int strip) const {
    float* const planes = w.scratch.data();
    float* const apart = planes + planes_floats();
    const int first = in_.layout.halo - window_.top + strip * window_.stride_h;  // row, border included
    const int rows = std::min(planes_.rows, in_.layout.height + 2 * in_.layout.halo - first);
    const int skipped = in_.layout.halo - window_.left, pixels = in_.layout.width + 2 * in_.layout.halo - skipped;
    const float* const from = in_.image(w, image) + first * in_.layout.row() + skipped * kLanes;
    float* to = planes;
    for (const Kept& run : in_.kept) {
      for (int done = 0; done < run.channels; done += kLanes) {
        const int count = std::min(kLanes, run.channels - done);
        const float* block = from + (run.first_block + done / kLanes) * in_.layout.block();
        for (int y = 0; y < rows; ++y) {
          kernels_.planes({block + y * in_.layout.row(), count, pixels, window_.kernel_w, window_.dilation_w,
                           window_.stride_w, planes_.columns, apart, planes_.apart, to + y * planes_.row(),
                           planes_.channel(), planes_.plane()});
        }
        to += count * planes_.channel();
      }
    }
  }

  // Which of a tile's outputs do not stop; `row` is its first in the strip that the planes hold.
  void check_tile(const float* planes, float* partial, int y, int row, int x, const Memory& m) const {
    std::fill_n(m.alive, kept_filters_, existing(y, x));
    const ptrdiff_t stride = window_.stride_h * planes_.row();
    kernels_.partial_sums({planes + row * stride + x, stride, columns_, taps_.data(), bounds_.data(), checks_count_,
                           tap_chunks_, kept_filters_, checks_.start.data(), thresholds_.data(), partial,
                           checks_.emits ? m.sums : nullptr, m.alive});
  }

  Planes planes_;
  std::vector<int> channels_;
  int checks_count_ = 0, tap_chunks_ = 1;
  std::vector<Tap> taps_;
  std::vector<int32_t> bounds_;
  std::vector<float> thresholds_;
};

// The filters of a convolution in eight bits: whole numbers in -127..127, times a step of each filter's own.
struct RoundedFilters {
  // From the filters as `Terminating` packs them, and a step for each.
  RoundedFilters(const Buffer& filters, ptrdiff_t stride, const std::vector<float>& steps)
      : bytes_((round_up(static_cast<int>(steps.size()), kLanes) * stride + kSlack) / sizeof(float)),
        stride_(stride) {
    for (size_t f = 0; f < steps.size(); ++f) {
      const float* const from = filters.data() + f * stride;
      int8_t* const to = data() + f / kLanes * block() + f % kLanes * kTogether;
      for (ptrdiff_t i = 0; i < stride; ++i) {
        const float whole = std::nearbyint(from[i] / steps[f]);
        to[i / kTogether * kTogether * kLanes + i % kTogether] =
            static_cast<int8_t>(std::max(-kMost, std::min(kMost, whole)));
      }
    }
  }

  const int8_t* data() const { return reinterpret_cast<const int8_t*>(bytes_.data()); }
  int8_t* data() { return reinterpret_cast<int8_t*>(bytes_.data()); }
  ptrdiff_t block() const { return stride_ * kLanes; }  // bytes from one block of filters to the next
  size_t bytes() const { return bytes_.bytes(); }

  // A filter's weights over some products, added up.
  int64_t sum(int filter, const std::vector<Segment>& segments) const {
    const int8_t* const from = data() + filter / kLanes * block() + filter % kLanes * kTogether;
    int64_t result = 0;
    for (const Segment& s : segments) {
      for (int k = 0; k < s.length; ++k) {
        result += from[s.weight + k / kTogether * kTogether * kLanes + k % kTogether];
      }
    }
    return result;
  }

 private:
  static constexpr float kMost = 127;
  static constexpr int kTogether = 4;  // products that a processor adds at once
  static constexpr int kSlack = 64 * kLanes;  // so far may be read, but not used, from the last product on
  Buffer bytes_;
  ptrdiff_t stride_;
};

// Sums of rounded products that tell which outputs are worth computing, and stand for the others.
class RoundedStep : public SparseStep {
 public:
  RoundedStep(const Buffer& filters, ptrdiff_t stride, const RoundedFilters& rounded, const Sliding& window,
              const Checks& checks, const Context& c)
      : SparseStep(filters, stride, window, checks, c, Innermost::filters), rounded_(rounded), start_(filter_slots()) {
    const Area all = whole_area(window, {out_.layout.height, out_.layout.width});
    segments_ = segments(window, all, in_, 0, in_.layout.blocks, kLanes, true);
    for (int f = 0; f < kept_filters_; ++f) weight_sums_.push_back(rounded.sum(f, segments_));
    std::copy_n(checks.start.begin(), kept_filters_, start_.begin());
    join_runs();
  }

  void run(Workspace& w, int images) const override {
    float* const factors = w.scratch.data() + memory_floats();
    int32_t* const least = reinterpret_cast<int32_t*>(factors + filter_slots());
    int32_t* const zeros = least + filter_slots();
    uint8_t* const packed = reinterpret_cast<uint8_t*>(zeros + filter_slots());
    const Image memory{packed + packed_bytes(), packed, least, zeros, factors};
    std::fill_n(factors, filter_slots(), 0.0f);  // filters that there are not are worth nothing
    std::fill_n(zeros, filter_slots(), 0);
    for (int image = 0; image < images; ++image) {
      const bool finite = round(w, image, memory);
      each_tile(w, image, 0, out_.layout.height, w.scratch.data(), [&](int y, int x, const Memory& m) {
        if (finite) {
          look(memory, y, x, m);
        } else {
          std::fill_n(m.alive, kept_filters_, existing(y, x));
        }
      });
    }
  }

  size_t scratch_floats(int, int) const override {
    return memory_floats() + 3 * filter_slots() + (in_.layout.image() + packed_bytes()) / sizeof(float) + kLanes;
  }
  size_t bytes() const override {
    return weight_sums_.size() * sizeof(int64_t) + start_.size() * sizeof(float) +
           (segments_.size() + runs_.size()) * sizeof(Segment);
  }

 private:
  static constexpr int kMost = 255, kMiddle = 128;
  static constexpr int kLine = 64;

  // Memory for an image in bytes, and of a tile's pixels with their products side by side; and of each filter the least
  // sum that goes on, what the inputs' zero adds to a sum, and what one of it is worth.
  struct Image {
    uint8_t* bytes;
    uint8_t* packed;
    int32_t* least;
    int32_t* zeros;
    float* factors;
  };

  ptrdiff_t packed_bytes() const { return kTilePixels * row_ + kLine; }

  // The segments as runs, and how long a row of them is.
  void join_runs() {
    runs_ = joined(segments_.data(), segments_.data() + segments_.size(), kLine);
    const int lines = runs_.empty() ? 0 : (runs_.back().input + runs_.back().length + kLine - 1) / kLine;
    row_ = (lines | 1) * kLine;  // an odd number, since rows that are powers of two apart share a place in the cache
  }

  // The image in bytes: 0 to 255 from nought to its greatest value, or, if some are negative, 1 to 255 around 128; and
  // what depends on that. False if the image has values that are not finite: then all outputs go on.
  bool round(const Workspace& w, int image, const Image& to) const {
    const float* const from = in_.image(w, image);
    float low = 0, high = 0;
    each_block(in_.kept, [&](int block) {
      float of_block[2];
      kernels_.range(from + block * in_.layout.block(), in_.layout.filled(), &of_block[0], &of_block[1]);
      low = std::min(low, of_block[0]);
      high = std::max(high, of_block[1]);
    });
    if (!std::isfinite(high) || !std::isfinite(low)) return false;
    const int zero = low < 0 ? kMiddle : 0;
    const float most = std::max(high, -low), steps = low < 0 ? kMost - kMiddle : kMost;
    const float scale = most > 0 ? steps / most : 1.0f;
    if (!std::isfinite(scale)) return false;
    each_block(in_.kept, [&](int block) {
      const ptrdiff_t at = block * in_.layout.block();
      kernels_.round(from + at, in_.layout.filled(), scale, zero, to.bytes + at);
    });
    for (int f = 0; f < kept_filters_; ++f) {
      // sum * step / scale + start >= threshold, where sum leaves out what `zero` added.
      const double from_bias = (static_cast<double>(checks_.thresholds[0][f]) - checks_.start[f]) * scale;
      const double bound = std::ceil(from_bias / checks_.steps[f]) + static_cast<double>(zero * weight_sums_[f]);
      to.least[f] = static_cast<int32_t>(std::max(-2147483647.0, std::min(2147483647.0, bound)));
      to.zeros[f] = static_cast<int32_t>(zero * weight_sums_[f]);
      to.factors[f] = checks_.steps[f] / scale;
    }
    return true;
  }

  void look(const Image& of, int y, int x, const Memory& m) const {
    const uint64_t exist = existing(y, x);
    // Pixels beyond the image are left out; those that fill up a vector are the first one again.
    int32_t pixels[kTilePixels] = {};
    uint8_t places[kTilePixels];
    int count = 0;
    for (uint64_t left = exist; left; left &= left - 1, ++count) {
      places[count] = static_cast<uint8_t>(__builtin_ctzll(left));
      pixels[count] = pixels_[places[count]];
    }
    kernels_.rounded_sums({of.bytes + window_.patch(in_.layout, y, x), pixels, count, segments_.data(),
                           static_cast<int>(segments_.size()), runs_.data(), static_cast<int>(runs_.size()), row_,
                           of.packed, rounded_.data(), rounded_.block(), divide_up(kept_filters_, kLanes), of.least,
                           m.alive, {of.zeros, of.factors, start_.data(), places, checks_.emits ? m.sums : nullptr}});
    for (int f = 0; f < kept_filters_; ++f) m.alive[f] = spread(m.alive[f], exist);
  }

  // The lowest bits, to the places that are set in `places`.
  static uint64_t spread(uint64_t bits, uint64_t places) {
    if (places == ~uint64_t{0}) return bits;
    uint64_t result = 0;
    for (; places; places &= places - 1, bits >>= 1) {
      if (bits & 1) result |= places & -places;
    }
    return result;
  }

  const RoundedFilters& rounded_;
  std::vector<Segment> segments_;
  std::vector<Segment> runs_;         // of segments, see RoundedCall
  int row_ = 0;
  std::vector<int64_t> weight_sums_;  // of each kept filter
  std::vector<float> start_;          // of each filter's sum
};

class Terminating : public Op {
 public:
  // Weights in PyTorch's order; packed [filter][16 input channels][kernel_h][kernel_w][channel]. `slot` is the layer's
  // place in the settings' positions; `input_size` holds one number for each input channel, or nothing.
  Terminating(const float* weight, const Value& in, const Value& out, const Sliding& window, int slot, Checks checks)
      : window_(window), slot_(slot), checks_(std::move(checks)) {
    const int channels = in.channels(), filters = out.channels(), taps = window.taps();
    stride_ = static_cast<ptrdiff_t>(in.blocks()) * taps * kLanes;
    filters_ = Buffer(static_cast<size_t>(filters) * stride_);
    const std::vector<int> places = in.places();
    for (int f = 0; f < filters; ++f) {
      for (int c = 0; c < channels; ++c) {
        for (int t = 0; t < taps; ++t) {
          const ptrdiff_t at = (static_cast<ptrdiff_t>(places[c] / kLanes) * taps + t) * kLanes + places[c] % kLanes;
          filters_.data()[f * stride_ + at] = weight[(static_cast<ptrdiff_t>(f) * channels + c) * taps + t];
        }
      }
    }
    if (!checks_.steps.empty()) rounded_.emplace(filters_, stride_, checks_.steps);
    if (checks_.input_size.empty()) return;
    std::vector<float> by_place(static_cast<size_t>(in.blocks()) * kLanes);
    for (int c = 0; c < channels; ++c) by_place[places[c]] = checks_.input_size[c];
    checks_.input_size = std::move(by_place);
  }

  Size output_size(const std::vector<Size>& in) const override { return window_.output(in[0]); }
  std::unique_ptr<Step> plan(const Context& c) const override {
    if (rounded_) return std::make_unique<RoundedStep>(filters_, stride_, *rounded_, window_, checks_, c);
    return std::make_unique<TerminatingStep>(filters_, stride_, window_, checks_, c.setting.positions.at(slot_), c);
  }
  size_t bytes() const override { return filters_.bytes() + (rounded_ ? rounded_->bytes() : 0); }

 private:
  Sliding window_;
  int slot_;
  Checks checks_;
  Buffer filters_;
  ptrdiff_t stride_;
  std::optional<RoundedFilters> rounded_;
};

}  // namespace tapernet
