// A convolution whose floats are multiplied as two bfloat16 halves each, by tiles of a matrix unit.
//
// The input is split first, into an image of high halves and one of low halves, with 32 channels in a block, as many as a
// tile multiplies. Pixels of a row of the output read those evenly apart, and tiles take them from there. Where rows are
// short, the inputs of each pixel are gathered in a row of their own before.
#pragma once

#include "division.h"

namespace tapernet {

// What both ways to take the inputs have in common.
class HalvesStep : public DividedStep {
 public:
  HalvesStep(const PackedFilters& filters, const Sliding& window, const Epilogue& epilogue, const Value& value,
             bool grouped, const Context& c)
      : DividedStep(filters, window, epilogue, value, grouped, c), narrow_(in_.layout.lanes < kLanes),
        split_(in_.layout) {
    if (!narrow_) {
      split_.lanes = kTogether;
      split_.blocks = divide_up(split_.blocks, 2);
    }
    std::vector<char> kept(in_.layout.blocks + 1);
    each_block(in_.kept, [&](int block) { kept[block] = 1; });
    for (int b = 0; b < in_.layout.blocks; b += 2) {
      if (kept[b] || kept[b + 1]) pairs_.push_back({b, {kept[b] != 0, kept[b + 1] != 0}});
    }
    for (const Part& part : parts_) most_blocks_ = std::max(most_blocks_, part.end - part.begin);
  }

  size_t bytes() const override { return finish_.bytes() + segments_ * sizeof(Segment); }

 protected:
  static constexpr int kTogether = kHalvesProducts, kTileFloats = kHalvesPixels * kLanes;
  static constexpr int kChunkProducts = 384;

  // Products that are added at a time.
  struct Chunk {
    std::vector<Segment> segments, runs;  // see GatherCall and HalvesCall
    int length = 0;                       // of a row that they are gathered to

    // Of segments whose inputs are multiplied where they lie, or are gathered first.
    Chunk(const Segment* begin, const Segment* end, bool gathered) {
      runs = gathered ? joined(begin, end, kTogether) : std::vector<Segment>(begin, end);
      const Segment* run = runs.data();
      for (const Segment* s = begin; gathered && s < end; ++s) {
        if (s->weight >= run->weight + run->length * kLanes) ++run;
        segments.push_back({s->input, run->input + (s->weight - run->weight) / kLanes, s->length});
      }
      // Whole tiles; those beyond multiply by zeros.
      for (Segment& r : runs) r.length = round_up(r.length, kTogether);
      if (gathered && !runs.empty()) length = runs.back().input + runs.back().length;
    }
  };

  // The products of an area with neighbours as one: `input` counts halves from the patch, `weight` floats.
  std::vector<Segment> products(const Area& area, int first) const {
    std::vector<Segment> result;
    const auto add = [&](int block, int h, int w, int length) {
      const ptrdiff_t at = block / (narrow_ ? 1 : 2) * split_.block() + window_.tap(split_, h, w);
      const int weight = filters_.product(block - first, h, w) * kLanes;
      Segment* last = result.empty() ? nullptr : &result.back();
      if (last && last->input + last->length == at && last->weight + last->length * kLanes == weight) {
        last->length += length;
      } else {
        result.push_back({static_cast<int32_t>(at), weight, length});
      }
    };
    for (const auto& [block, kept] : pairs_) {
      if (block < first || block >= first + filters_.span()) continue;
      const int length = narrow_ ? split_.lanes : filters_.alone(block - first) ? kLanes : kTogether;
      for (int h = area.rows.first; h < area.rows.last; ++h) {
        for (int w = 0; w < window_.kernel_w; ++w) add(block, h, w, length);
      }
    }
    return result;
  }

  // The same in chunks, whose weights stay in the cache if they come from far. With `gathered`, their inputs lie side by
  // side, as far as their weights do.
  std::vector<Chunk> chunks(const Area& area, int first, bool gathered) {
    const std::vector<Segment> all = products(area, first);
    const std::vector<int> bounds = chunk_bounds(all, large(filters_) ? kChunkProducts : 1 << 30);
    std::vector<Chunk> result;
    for (size_t i = 0; i + 1 < bounds.size(); ++i) {
      result.emplace_back(all.data() + bounds[i], all.data() + bounds[i + 1], gathered);
      segments_ += result.back().segments.size() + result.back().runs.size();
    }
    return result;
  }

  // Tiles of pixels, as HalvesCall wants them.
  struct Tiles {
    const uint16_t* const* inputs;
    const int* pixels;
    float* const* outputs;
    int count, of_pixels;
    ptrdiff_t stride, low;
  };
  void multiply(const Tiles& t, const Chunk& c, bool first, bool last, std::pair<int, int> blocks, float* sums) const {
    kernels_.multiply({t.inputs, t.count, t.of_pixels, t.pixels, t.stride, t.low, c.runs.data(),
                       static_cast<int>(c.runs.size()), filters_.data(), filters_.stride(), blocks.first, blocks.second,
                       sums, first, last, t.outputs, out_.layout.block(), finish_.scale.data(), finish_.shift.data(),
                       finish_.low, finish_.high, large(filters_)});
  }
  // Floats for the sums of so many tiles.
  size_t sums_floats(int tiles) const { return static_cast<size_t>(std::max(8, most_blocks_ * tiles)) * kTileFloats; }

  // Floats of scratch for the halves of so many images, and for what may be read after them.
  size_t split_floats(int images) const {
    const size_t after = 2 * kHalvesPixels * static_cast<size_t>(window_.stride_w) * split_.lanes + 2 * kTogether;
    return round_up(static_cast<int>(images * split_.image() + after), kLanes);
  }
  Halves halves(Workspace& w, int images) const {
    const ptrdiff_t low = round_up(static_cast<int>(images * split_.image()) + kLanes, kTogether);
    return {reinterpret_cast<uint16_t*>(w.scratch.data()), low};
  }
  const uint16_t* patch(const Halves& halves, int image, int row, int column) const {
    return halves.data + image * split_.image() + window_.patch(split_, row, column);
  }

  void split(Workspace& w, int images, int threads) const {
    const Halves all = halves(w, images);
    if (narrow_) threads = 1;  // whole vectors, of which the last goes into the next image
    w.divide(threads, [&](int thread) {
      for (int image = thread; image < images; image += threads) split_image(w, image, all);
    });
    // Of few channels, whole tiles are read from the last patch on; what comes after the images must be a number.
    const ptrdiff_t end = images * split_.image();
    std::fill(all.data + end, all.data + all.low, uint16_t{0});
    std::fill_n(all.data + all.low + end, 2 * kTogether, uint16_t{0});
  }

  bool narrow_;
  Layout split_;  // of the halves

 private:
  // Two blocks of the input, from an even one on, of which one is kept at least. Of few channels there is but one block.
  struct Pair {
    int block;
    bool kept[2];
  };

  void split_image(const Workspace& w, int image, const Halves& all) const {
    const float* const from = in_.image(w, image);
    uint16_t* const to = all.data + image * split_.image();
    if (narrow_) {
      kernels_.split({from, divide_up(static_cast<int>(in_.layout.block()), kLanes), {to, all.low}, kLanes});
      return;
    }
    const int pixels = (in_.layout.height + 2 * in_.layout.halo) * (in_.layout.width + 2 * in_.layout.halo);
    for (const Pair& pair : pairs_) {
      for (int i = 0; i < 2; ++i) {
        uint16_t* const at = to + pair.block / 2 * split_.block() + i * kLanes;
        if (pair.kept[i]) {
          kernels_.split({from + (pair.block + i) * in_.layout.block(), pixels, {at, all.low}, kTogether});
          continue;
        }
        for (int p = 0; p < pixels; ++p) {
          std::fill_n(at + p * kTogether, kLanes, uint16_t{0});
          std::fill_n(at + all.low + p * kTogether, kLanes, uint16_t{0});
        }
      }
    }
  }

  std::vector<Pair> pairs_;
  int most_blocks_ = 0;  // of filters in a part
  size_t segments_ = 0;  // of all chunks
};

// Where rows of the output are long enough for tiles that take pixels of one row alone.
class RowsStep : public HalvesStep {
 public:
  static bool serves(const Sliding& window, const Context& c) {
    if (c.inputs[0].layout.lanes < kLanes && window.dilation_w > 1) return false;
    // A tile of few pixels takes as long as a full one; to gather takes as long as some filters do.
    const int of_pixels = tile_pixels(c.output.layout.width);
    return channels(c.output.kept) * (kHalvesPixels - of_pixels) < kFiltersOfGather * of_pixels;
  }

  RowsStep(const PackedFilters& filters, const Sliding& window, const Epilogue& epilogue, const Value& value,
           bool grouped, const Context& c)
      : HalvesStep(filters, window, epilogue, value, grouped, c), of_row_(divide_up(out_.layout.width, kHalvesPixels)),
        of_pixels_(tile_pixels(out_.layout.width)),
        rows_(bands(in_.layout.height, out_.layout.height, window.kernel_h, window.stride_h, window.dilation_h,
                    window.top)) {
    for (const Part& part : parts_) {
      chunks_.emplace_back();
      for (const Band& rows : rows_) chunks_.back().push_back(chunks({rows, {}}, part.first_input, false));
    }
  }

  void run(Workspace& w, int images) const override {
    const int total = images * out_.layout.height * of_row_;
    const Work work = this->work(w, images, divide_up(total, kTiles));
    split(w, images, work.threads);
    each_task(w, work, [&](int stretch, int share, int thread) {
      float* const sums = w.scratch.data() + split_floats(images) + thread * sums_floats(kTiles);
      const int first = stretch * kTiles, end = std::min(first + kTiles, total);
      for (size_t band = 0; band < rows_.size(); ++band) compute(w, images, band, first, end, share, work.shares, sums);
    });
  }

  size_t scratch_floats(int images, int threads) const override {
    return split_floats(images) + threads * sums_floats(kTiles);
  }

 private:
  static constexpr int kTiles = 24;  // of a stretch
  static constexpr int kFiltersOfGather = 70;

  static int tile_pixels(int width) { return divide_up(width, divide_up(width, kHalvesPixels)); }

  // Those of the tiles [first, end), counted over all images, that lie in a band of rows.
  void compute(Workspace& w, int images, size_t band, int first, int end, int share, int shares, float* sums) const {
    const Halves input = halves(w, images);
    const uint16_t* inputs[kTiles];
    int pixels[kTiles], count = 0;
    float* outputs[kTiles * kHalvesPixels];
    for (int i = first; i < end; ++i) {
      const int row = i / of_row_, image = row / out_.layout.height, y = row % out_.layout.height;
      if (y < rows_[band].begin || y >= rows_[band].end) continue;
      const int x = i % of_row_ * of_pixels_;
      inputs[count] = patch(input, image, y, x);
      pixels[count] = std::min(of_pixels_, out_.layout.width - x);
      float* out = out_.image(w, image) + out_.layout.pixel(y, x);
      for (int p = 0; p < pixels[count]; ++p, out += kLanes) outputs[count * of_pixels_ + p] = out;
      ++count;
    }
    if (count == 0) return;
    const Tiles tiles{inputs, pixels, outputs, count, of_pixels_, window_.stride_w * split_.lanes, input.low};
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::pair<int, int> blocks = parts_[p].share(share, shares);
      if (blocks.first == blocks.second) continue;
      const std::vector<Chunk>& chunks = chunks_[p][band];
      for (const Chunk& c : chunks) multiply(tiles, c, &c == &chunks.front(), &c == &chunks.back(), blocks, sums);
    }
  }

  int of_row_, of_pixels_;  // tiles of a row, pixels of a tile
  std::vector<Band> rows_;
  std::vector<std::vector<std::vector<Chunk>>> chunks_;  // of each part and band
};

// Elsewhere: the inputs of each pixel are gathered.
class GatherStep : public HalvesStep {
 public:
  GatherStep(const PackedFilters& filters, const Sliding& window, const Epilogue& epilogue, const Value& value,
             bool grouped, const Context& c)
      : HalvesStep(filters, window, epilogue, value, grouped, c), pixels_(pixels_at_once()),
        // Each area would read weights from far again.
        divisions_(window, in_.layout, out_.layout, pixels_, {kHalvesPixels, kHalvesPixels},
                   large(filters) ? Cuts::none : Cuts::rows) {
    int longest = 0;
    for (const Part& part : parts_) {
      chunks_.emplace_back();
      for (size_t i = 0; i < divisions_.size(); ++i) {
        chunks_.back().emplace_back();
        for (const Area& area : divisions_[i].areas) {
          chunks_.back().back().push_back(chunks(area, part.first_input, true));
          for (const Chunk& c : chunks_.back().back().back()) longest = std::max(longest, c.length);
        }
      }
    }
    low_ = longest + kTogether;
    stride_ = (2 * low_ / kTogether | 1) * kTogether;  // an odd number, as rows powers of two apart share cache sets
  }

  void run(Workspace& w, int images) const override {
    const size_t best = divisions_.best(images);
    const int total = images * out_.layout.height * out_.layout.width;
    const Work work = this->work(w, images, divide_up(total, pixels_));
    split(w, images, work.threads);
    each_task(w, work, [&](int stretch, int share, int thread) {
      float* const memory = w.scratch.data() + split_floats(images) + thread * of_thread();
      const int first = stretch * pixels_;
      compute(w, images, best, first, std::min(pixels_, total - first), share, work.shares, memory);
    });
  }

  size_t scratch_floats(int images, int threads) const override { return split_floats(images) + threads * of_thread(); }

 private:
  static constexpr int kRowsBytes = 320 * 1024, kFewTiles = 6;  // of the second cache, for the rows
  static constexpr int kManyTiles = 16;                         // where the weights come from further than that
  static constexpr int kMostTiles = Stretch::kMost / kHalvesPixels;

  int pixels_at_once() const {
    if (large(filters_)) return kManyTiles * kHalvesPixels;
    const int bytes = static_cast<int>(sizeof(float)) * channels(in_.kept) * window_.taps();
    return std::max(2, std::min(kFewTiles, kRowsBytes / std::max(1, bytes) / kHalvesPixels)) * kHalvesPixels;
  }
  size_t rows_floats() const { return static_cast<size_t>(pixels_ + kHalvesPixels) * stride_ / 2; }
  size_t of_thread() const { return rows_floats() + sums_floats(pixels_ / kHalvesPixels); }

  void compute(Workspace& w, int images, size_t division, int first, int count, int share, int shares,
               float* memory) const {
    const Halves input = halves(w, images), rows{reinterpret_cast<uint16_t*>(memory), low_};
    const uint16_t *patches[Stretch::kMost], *tiles[kMostTiles];
    float* outputs[Stretch::kMost];
    const Stretch pixels(output(), divisions_[division], first, count, [&](int at, int image, int row, int column) {
      patches[at] = patch(input, image, row, column);
      outputs[at] = out_.image(w, image) + out_.layout.pixel(row, column);
    });
    for (int i = 0; i < kMostTiles; ++i) tiles[i] = rows.data + i * kHalvesPixels * stride_;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::pair<int, int> blocks = parts_[p].share(share, shares);
      if (blocks.first == blocks.second) continue;
      for (size_t a = 0; a < divisions_[division].areas.size(); ++a) {
        const int begin = pixels.begin[a], left = pixels.begin[a + 1] - begin;
        if (left == 0) continue;
        int of_tile[kMostTiles];
        for (int i = 0; i * kHalvesPixels < left; ++i) of_tile[i] = std::min(kHalvesPixels, left - i * kHalvesPixels);
        const Tiles all{tiles, of_tile, outputs + begin, divide_up(left, kHalvesPixels), kHalvesPixels, stride_, low_};
        const std::vector<Chunk>& chunks = chunks_[p][division][a];
        for (const Chunk& c : chunks) {
          kernels_.gather({patches + begin, input.low, left, c.segments.data(), static_cast<int>(c.segments.size()),
                           rows, stride_, c.length});
          multiply(all, c, &c == &chunks.front(), &c == &chunks.back(), blocks, memory + rows_floats());
        }
      }
    }
  }

  int pixels_;  // of a stretch, at most
  Divisions divisions_;
  std::vector<std::vector<std::vector<std::vector<Chunk>>>> chunks_;  // of each part, division and area
  ptrdiff_t low_ = 0, stride_ = 0;
};

}  // namespace tapernet
