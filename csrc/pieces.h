// A convolution whose floats are multiplied as bfloat16 pieces, by tiles of a matrix unit.
//
// The input is split first, into an image of each piece, with 32 channels in a block, as many as a tile multiplies. Pixels of
// a row of the output read those evenly apart, and tiles take them from there. Where rows are short, the inputs of each
// pixel are gathered in a row of their own before.
//
// Two pieces of a weight lie in memory where the float would. Three would not fit: the floats stay, and are cut into pieces
// before they are multiplied, all of a layer at once or, where there are too many for the cache, some at a time.
#pragma once

#include <atomic>

#include "division.h"

namespace tapernet {

// What both ways to take the inputs have in common.
class PiecesStep : public DividedStep {
 public:
  explicit PiecesStep(const Layer& l)
      : DividedStep(l), narrow_(in_.layout.lanes < kLanes), split_(in_.layout), number_(kernels_.pieces) {
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

  void run(Workspace& w, int images) const final { serve(w, images); }
  // The same; of three pieces the answer is false, and nothing is computed, if a float of the input does not have them.
  bool serve(Workspace& w, int images) const {
    const Work work = this->work(w, images, stretches(images));
    if (!split(w, images, work.threads) && number_ == 3) return false;
    if (cuts_all()) cut_all(w, images, work.threads);
    each_task(w, work, [&](int stretch, int share, int thread) {
      compute(w, images, stretch, {share, work.shares}, memory(w, images, thread));
    });
    return true;
  }
  // The time that it takes, as that of so many products of a filter by vectors.
  double cost(int images) const {
    const int cuts = number_ == 2 ? 0 : cuts_all() ? 1 : stretches(images);
    return taps(images) / kProductsByVector + static_cast<double>(cuts) * kProductsOfCut * window_.taps();
  }
  size_t scratch_floats(int images, int threads) const final {
    return split_floats(images) + cut_floats() + threads * thread_floats();
  }
  size_t bytes() const override { return finish_.bytes() + segments_ * sizeof(Segment); }

 protected:
  static constexpr int kTogether = kPiecesProducts, kTileFloats = kPiecesPixels * kLanes;
  static constexpr int kChunkProducts = 384;

  // Of the filters, as of `count` equal parts.
  struct Share {
    int number, count;
  };

  // Taps that all pixels of so many images multiply, those of no pixel in a tile included.
  virtual double taps(int images) const = 0;
  // How many stretches of pixels they have.
  virtual int stretches(int images) const = 0;
  // One of them, once the inputs lie as pieces in the scratch. `memory` is the thread's own.
  virtual void compute(Workspace& w, int images, int stretch, Share share, float* memory) const = 0;
  // Of that.
  virtual size_t thread_floats() const = 0;

  // Products that are added at a time. Their weights lie from `weight` on in a block of filters; runs count from there.
  struct Chunk {
    std::vector<Segment> segments, runs;  // see GatherCall and PiecesCall
    int length = 0;                       // of a row that they are gathered to
    int weight = 0, weights = 0;

    // Of segments whose inputs are multiplied where they lie, or are gathered first.
    Chunk(const Segment* begin, const Segment* end, bool gathered) {
      runs = gathered ? joined(begin, end, kTogether) : std::vector<Segment>(begin, end);
      const Segment* run = runs.data();
      for (const Segment* s = begin; gathered && s < end; ++s) {
        if (s->weight >= run->weight + run->length * kLanes) ++run;
        segments.push_back({s->input, run->input + (s->weight - run->weight) / kLanes, s->length});
      }
      if (runs.empty()) return;
      weight = runs.front().weight;
      for (Segment& r : runs) {
        r.length = round_up(r.length, kTogether);  // whole tiles; those beyond multiply by zeros
        r.weight -= weight;
      }
      weights = runs.back().weight + runs.back().length * kLanes;
      if (gathered) length = runs.back().input + runs.back().length;
    }
  };

  // The products of an area with neighbours as one: `input` counts pieces from the patch, `weight` floats.
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
      const Chunk& c = result.back();
      segments_ += c.segments.size() + c.runs.size();
      most_weights_ = std::max(most_weights_, c.weight + c.weights);
      most_chunk_weights_ = std::max(most_chunk_weights_, c.weights);
    }
    return result;
  }

  // Tiles of pixels, as PiecesCall wants them.
  struct Tiles {
    const uint16_t* const* inputs;
    const int* pixels;
    float* const* outputs;
    int count, of_pixels;
    ptrdiff_t stride, next;
  };
  // A chunk of the products of tiles with blocks of filters.
  struct Product {
    const Tiles& tiles;
    const Chunk& chunk;
    bool first, last;
  };
  // For every chunk in turn; `memory` is as large as multiply_floats says.
  void multiply(const Workspace& w, int images, const Product& p, std::pair<int, int> blocks, float* memory) const {
    float* const sums = memory + few_cut_floats();
    if (number_ == 2) {
      const auto* const all = reinterpret_cast<const uint16_t*>(filters_.data());
      call(p, blocks, all + 2 * (blocks.first * filters_.stride() + p.chunk.weight), 2 * filters_.stride(), sums);
      return;
    }
    if (cuts_all()) {
      const uint16_t* const all = reinterpret_cast<const uint16_t*>(w.scratch.data() + split_floats(images));
      const ptrdiff_t stride = 3 * most_weights_;
      call(p, blocks, all + blocks.first * stride + 3 * p.chunk.weight, stride, sums);
      return;
    }
    auto* const few = reinterpret_cast<uint16_t*>(memory);
    for (int b = blocks.first; b < blocks.second; b += kTogetherBlocks) {
      const int end = std::min(b + kTogetherBlocks, blocks.second);
      for (int i = b; i < end; ++i) cut(i, p.chunk.weight, p.chunk.weights, few + (i - b) * 3 * p.chunk.weights);
      // Sums that are whole at once have no place of their own.
      const bool whole = p.first && p.last;
      const ptrdiff_t place = whole ? 0 : static_cast<ptrdiff_t>(b - blocks.first) * p.tiles.count * kTileFloats;
      call(p, {b, end}, few, 3 * p.chunk.weights, sums + place);
    }
  }
  // Floats of memory for the products of so many tiles.
  size_t multiply_floats(int tiles) const {
    return few_cut_floats() + static_cast<size_t>(std::max(8, most_blocks_ * tiles)) * kTileFloats;
  }

  Pieces pieces(Workspace& w, int images) const {
    const ptrdiff_t next = round_up(static_cast<int>(images * split_.image()) + kLanes, kTogether);
    return {reinterpret_cast<uint16_t*>(w.scratch.data()), next};
  }
  const uint16_t* patch(const Pieces& pieces, int image, int row, int column) const {
    return pieces.data + image * split_.image() + window_.patch(split_, row, column);
  }

  bool narrow_;
  Layout split_;  // of the pieces
  int number_;    // of pieces

 private:
  static constexpr int kTogetherBlocks = 2;  // of filters, that a kernel multiplies together
  // Products by tiles in the time of one by vectors: where another core's work slows the matrix unit down, else twice as
  // many. And the pixels that a weight must meet until cutting it has taken no longer than multiplying it.
  static constexpr double kProductsByVector = 1.5, kProductsOfCut = 12;

  // Two blocks of the input, from an even one on, of which one is kept at least. Of few channels there is but one block.
  struct Pair {
    int block;
    bool kept[2];
  };

  // `weights` are those of the first block, `stride` is from one to the next.
  void call(const Product& p, std::pair<int, int> blocks, const uint16_t* weights, ptrdiff_t stride, float* sums) const {
    const Tiles& t = p.tiles;
    kernels_.multiply({t.inputs, t.count, t.of_pixels, t.pixels, t.stride, t.next, p.chunk.runs.data(),
                       static_cast<int>(p.chunk.runs.size()), weights, stride, blocks.first, blocks.second, sums, p.first,
                       p.last, t.outputs, out_.layout.block(), finish_.scale.data(), finish_.shift.data(), finish_.low,
                       finish_.high, number_ == 2 && large(filters_)});
  }

  // The scratch of a call: pieces of the images, then pieces of all weights, then the memory of each thread.
  size_t split_floats(int images) const {
    // With what may be read after the images.
    const size_t after = 2 * kPiecesPixels * static_cast<size_t>(window_.stride_w) * split_.lanes + 4 * kTogether;
    return round_up(static_cast<int>(number_ * (images * split_.image() + after) / 2), kTogether);
  }
  bool cuts_all() const { return number_ == 3 && !large(filters_); }
  size_t cut_floats() const {
    return cuts_all() ? 3 * static_cast<size_t>(filters_.blocks()) * most_weights_ / 2 : 0;
  }
  // Of a thread that cuts a few weights at a time.
  size_t few_cut_floats() const {
    return number_ == 3 && !cuts_all() ? 3 * static_cast<size_t>(kTogetherBlocks) * most_chunk_weights_ / 2 : 0;
  }
  float* memory(Workspace& w, int images, int thread) const {
    return w.scratch.data() + split_floats(images) + cut_floats() + thread * thread_floats();
  }

  // Weights of a block of filters from the one numbered `from` on.
  void cut(int block, int from, int count, uint16_t* to) const {
    kernels_.cut(filters_.data() + block * filters_.stride() + from, count, to);
  }
  void cut_all(Workspace& w, int images, int threads) const {
    auto* const to = reinterpret_cast<uint16_t*>(w.scratch.data() + split_floats(images));
    w.divide(threads, [&](int thread) {
      for (const Part& part : parts_) {
        for (int b = part.begin + thread; b < part.end; b += threads) {
          cut(b, 0, most_weights_, to + 3 * static_cast<ptrdiff_t>(b) * most_weights_);
        }
      }
    });
  }

  // Whether every float has pieces.
  bool split(Workspace& w, int images, int threads) const {
    const Pieces all = pieces(w, images);
    if (narrow_) threads = 1;  // whole vectors, of which the last goes into the next image
    std::atomic<bool> whole{true};
    w.divide(threads, [&](int thread) {
      for (int image = thread; image < images; image += threads) {
        if (!split_image(w, image, all)) whole.store(false, std::memory_order_relaxed);
      }
    });
    // Of few channels, whole tiles are read from the last patch on; what comes after the images must be a number.
    const ptrdiff_t end = images * split_.image();
    for (int i = 0; i < number_; ++i) {
      uint16_t* const piece = all.data + i * all.next;
      std::fill(piece + end, piece + (i + 1 < number_ ? all.next : end + 2 * kTogether), uint16_t{0});
    }
    return whole;
  }
  bool split_image(const Workspace& w, int image, const Pieces& all) const {
    const float* const from = in_.image(w, image);
    uint16_t* const to = all.data + image * split_.image();
    if (narrow_) return kernels_.split({from, static_cast<int>(in_.layout.block()), {to, all.next}, kLanes});
    const int pixels = (in_.layout.height + 2 * in_.layout.halo) * (in_.layout.width + 2 * in_.layout.halo);
    bool whole = true;
    for (const Pair& pair : pairs_) {
      for (int i = 0; i < 2; ++i) {
        uint16_t* const at = to + pair.block / 2 * split_.block() + i * kLanes;
        if (pair.kept[i]) {
          const float* const block = from + (pair.block + i) * in_.layout.block();
          whole &= kernels_.split({block, pixels * kLanes, {at, all.next}, kTogether});
          continue;
        }
        for (int p = 0; p < pixels * number_; ++p) {
          std::fill_n(at + p / pixels * all.next + p % pixels * kTogether, kLanes, uint16_t{0});
        }
      }
    }
    return whole;
  }

  std::vector<Pair> pairs_;
  int most_blocks_ = 0;  // of filters in a part
  size_t segments_ = 0;  // of all chunks
  int most_weights_ = 0, most_chunk_weights_ = 0;  // that a block of filters has: in all, and in a chunk
};

// Where rows of the output are long enough for tiles that take pixels of one row alone.
class RowsStep : public PiecesStep {
 public:
  static bool serves(const Sliding& window, const Context& c) {
    if (c.inputs[0].layout.lanes < kLanes && window.dilation_w > 1) return false;
    // A tile of few pixels takes as long as a full one; to gather takes as long as some filters do.
    const int of_pixels = tile_pixels(c.output.layout.width);
    return channels(c.output.kept) * (kPiecesPixels - of_pixels) < kFiltersOfGather * of_pixels;
  }

  explicit RowsStep(const Layer& l)
      : PiecesStep(l), of_row_(divide_up(out_.layout.width, kPiecesPixels)), of_pixels_(tile_pixels(out_.layout.width)) {
    // The zeros of the border are multiplied, too: to do without them takes more tiles of fewer pixels, and more time.
    const Area whole = whole_area(window_, output());
    for (const Part& part : parts_) chunks_.push_back(chunks(whole, part.first_input, false));
  }

 private:
  static constexpr int kTiles = 24;  // of a stretch
  static constexpr int kFiltersOfGather = 70;

  static int tile_pixels(int width) { return divide_up(width, divide_up(width, kPiecesPixels)); }

  int total(int images) const { return images * out_.layout.height * of_row_; }
  int stretches(int images) const override { return divide_up(total(images), kTiles); }
  double taps(int images) const override { return static_cast<double>(total(images)) * kPiecesPixels * window_.taps(); }
  size_t thread_floats() const override { return multiply_floats(kTiles); }
  void compute(Workspace& w, int images, int stretch, Share share, float* memory) const override {
    const int first = stretch * kTiles, count = std::min(kTiles, total(images) - first);
    const Pieces input = pieces(w, images);
    const uint16_t* inputs[kTiles];
    int pixels[kTiles];
    float* outputs[kTiles * kPiecesPixels];
    for (int i = 0; i < count; ++i) {
      const int row = (first + i) / of_row_, image = row / out_.layout.height, y = row % out_.layout.height;
      const int x = (first + i) % of_row_ * of_pixels_;
      inputs[i] = patch(input, image, y, x);
      pixels[i] = std::min(of_pixels_, out_.layout.width - x);
      float* out = out_.image(w, image) + out_.layout.pixel(y, x);
      for (int p = 0; p < pixels[i]; ++p, out += kLanes) outputs[i * of_pixels_ + p] = out;
    }
    const Tiles tiles{inputs, pixels, outputs, count, of_pixels_, window_.stride_w * split_.lanes, input.next};
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::pair<int, int> blocks = parts_[p].share(share.number, share.count);
      if (blocks.first == blocks.second) continue;
      const std::vector<Chunk>& chunks = chunks_[p];
      for (const Chunk& c : chunks) {
        multiply(w, images, {tiles, c, &c == &chunks.front(), &c == &chunks.back()}, blocks, memory);
      }
    }
  }

  int of_row_, of_pixels_;  // tiles of a row, pixels of a tile
  std::vector<std::vector<Chunk>> chunks_;  // of each part
};

// Elsewhere: the inputs of each pixel are gathered.
class GatherStep : public PiecesStep {
 public:
  explicit GatherStep(const Layer& l)
      : PiecesStep(l), pixels_(pixels_at_once()),
        // Each area would read weights from far again.
        divisions_(window_, in_.layout, out_.layout, pixels_, {kPiecesPixels, kPiecesPixels},
                   large(filters_) ? Cuts::none : Cuts::rows) {
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
    next_ = longest + kTogether;
    stride_ = (number_ * next_ / kTogether | 1) * kTogether;  // an odd number, as rows powers of two apart share cache sets
  }

 private:
  static constexpr int kRowsBytes = 320 * 1024, kFewTiles = 6;  // of the second cache, for the rows
  static constexpr int kManyTiles = 16;                         // where the weights come from further than that
  static constexpr int kMostTiles = Stretch::kMost / kPiecesPixels;

  int pixels_at_once() const {
    if (large(filters_)) return kManyTiles * kPiecesPixels;
    const int bytes = number_ * static_cast<int>(sizeof(uint16_t)) * channels(in_.kept) * window_.taps();
    return std::max(2, std::min(kFewTiles, kRowsBytes / std::max(1, bytes) / kPiecesPixels)) * kPiecesPixels;
  }
  size_t rows_floats() const { return static_cast<size_t>(pixels_ + kPiecesPixels) * stride_ / 2; }
  size_t thread_floats() const override { return rows_floats() + multiply_floats(pixels_ / kPiecesPixels); }

  int total(int images) const { return images * out_.layout.height * out_.layout.width; }
  int stretches(int images) const override { return divide_up(total(images), pixels_); }
  double taps(int images) const override { return divisions_.cost(images); }
  void compute(Workspace& w, int images, int stretch, Share share, float* memory) const override {
    const size_t division = divisions_.best(images);
    const int first = stretch * pixels_, count = std::min(pixels_, total(images) - first);
    const Pieces input = pieces(w, images), rows{reinterpret_cast<uint16_t*>(memory), next_};
    const uint16_t *patches[Stretch::kMost], *tiles[kMostTiles];
    float* outputs[Stretch::kMost];
    const Stretch pixels(output(), divisions_[division], first, count, [&](int at, int image, int row, int column) {
      patches[at] = patch(input, image, row, column);
      outputs[at] = out_.image(w, image) + out_.layout.pixel(row, column);
    });
    for (int i = 0; i < kMostTiles; ++i) tiles[i] = rows.data + i * kPiecesPixels * stride_;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::pair<int, int> blocks = parts_[p].share(share.number, share.count);
      if (blocks.first == blocks.second) continue;
      for (size_t a = 0; a < divisions_[division].areas.size(); ++a) {
        const int begin = pixels.begin[a], left = pixels.begin[a + 1] - begin;
        if (left == 0) continue;
        int of_tile[kMostTiles];
        for (int i = 0; i * kPiecesPixels < left; ++i) of_tile[i] = std::min(kPiecesPixels, left - i * kPiecesPixels);
        const Tiles all{tiles, of_tile, outputs + begin, divide_up(left, kPiecesPixels), kPiecesPixels, stride_, next_};
        const std::vector<Chunk>& chunks = chunks_[p][division][a];
        for (const Chunk& c : chunks) {
          kernels_.gather({patches + begin, input.next, left, c.segments.data(), static_cast<int>(c.segments.size()),
                           rows, stride_, c.length});
          multiply(w, images, {all, c, &c == &chunks.front(), &c == &chunks.back()}, blocks, memory + rows_floats());
        }
      }
    }
  }

  int pixels_;  // of a stretch, at most
  Divisions divisions_;
  std::vector<std::vector<std::vector<std::vector<Chunk>>>> chunks_;  // of each part, division and area
  ptrdiff_t next_ = 0, stride_ = 0;
};

}  // namespace tapernet
