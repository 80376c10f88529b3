// A kernel that moves over an image: convolutions.
#pragma once

#include <vector>

#include "layout.h"

namespace tapernet {

struct Sliding {
  int kernel_h, kernel_w;
  int stride_h, stride_w;
  int dilation_h, dilation_w;
  int top, left, bottom, right;  // padding

  Size output(Size in) const {
    return {(in.height + top + bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1,
            (in.width + left + right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1};
  }
  int taps() const { return kernel_h * kernel_w; }
  // Rows of the input that so many neighbouring rows of the output read.
  int rows_read(int rows) const { return (rows - 1) * stride_h + (kernel_h - 1) * dilation_h + 1; }
  int halo() const { return std::max(std::max(top, bottom), std::max(left, right)); }

  // From the start of a block of the input to the patch of output pixel (y, x).
  ptrdiff_t patch(const Layout& in, int y, int x) const {
    return (in.halo - top + y * stride_h) * in.row() + static_cast<ptrdiff_t>(in.halo - left + x * stride_w) * in.lanes;
  }
  // From there to a tap.
  ptrdiff_t tap(const Layout& in, int h, int w) const {
    return h * dilation_h * in.row() + static_cast<ptrdiff_t>(w) * dilation_w * in.lanes;
  }
};

// Neighbouring rows (or columns) of the output that read the same rows (columns) of the kernel, [first, last): the
// others lie on the border for all of them.
struct Band {
  int begin, end;
  int first, last;
  int outputs() const { return end - begin; }
  int taps() const { return last - first; }
};

inline std::vector<Band> bands(int in, int out, int kernel, int stride, int dilation, int before) {
  std::vector<Band> result;
  for (int y = 0; y < out; ++y) {
    const int at = y * stride - before;  // of the kernel's first row
    int first = 0, last = kernel;
    while (first < last && at + first * dilation < 0) ++first;
    while (last > first && at + (last - 1) * dilation >= in) --last;
    if (!result.empty() && result.back().first == first && result.back().last == last) {
      result.back().end = y + 1;
    } else {
      result.push_back({y, y + 1, first, last});
    }
  }
  return result;
}

// A part of the output whose pixels read the same taps of the kernel.
struct Area {
  Band rows, columns;
  int pixels() const { return rows.outputs() * columns.outputs(); }
  int taps() const { return rows.taps() * columns.taps(); }
};

// The whole output, reading every tap.
inline Area whole_area(const Sliding& s, Size out) {
  return {{0, out.height, 0, s.kernel_h}, {0, out.width, 0, s.kernel_w}};
}

// The products of a filter over the kept channels of the blocks in [first, last) for an area's taps, from block to block and
// tap to tap. place(block, h, w) is where the weights of a tap start. With `whole`, taps that are neighbours in both are one
// segment, and every lane of a block counts (the lanes that a budget drops hold zeros).
template <class Place>
std::vector<Segment> segments(const Sliding& s, const Area& area, const View& in, int first, int last, int filters,
                              bool whole, Place place) {
  const int lanes = in.layout.lanes;
  std::vector<Segment> result;
  for (const Kept& run : in.kept) {
    for (int b = 0; b < divide_up(run.channels, lanes); ++b) {
      const int block = run.first_block + b;
      if (block < first || block >= last) continue;
      const int length = whole ? lanes : std::min(lanes, run.channels - b * lanes);
      for (int h = area.rows.first; h < area.rows.last; ++h) {
        for (int w = area.columns.first; w < area.columns.last; ++w) {
          const ptrdiff_t at = block * in.layout.block() + s.tap(in.layout, h, w);
          const Segment next{static_cast<int32_t>(at), place(block - first, h, w), length};
          Segment* previous = result.empty() ? nullptr : &result.back();
          if (previous && (whole || lanes < kLanes) && previous->input + previous->length == next.input &&
              previous->weight + previous->length * filters == next.weight) {
            previous->length += length;
          } else {
            result.push_back(next);
          }
        }
      }
    }
  }
  return result;
}

// The same where the weights are packed [block][kernel_h][kernel_w][lanes], times `filters`.
inline std::vector<Segment> segments(const Sliding& s, const Area& area, const View& in, int first, int last,
                                     int filters, bool whole) {
  return segments(s, area, in, first, last, filters, whole, [&](int block, int h, int w) {
    return ((block * s.kernel_h + h) * s.kernel_w + w) * in.layout.lanes * filters;
  });
}

// Those whose weights (of 16 filters) lie one after the other, as one; `input` is where its inputs go in a row of all, and
// a multiple of `unit`.
inline std::vector<Segment> joined(const Segment* begin, const Segment* end, int unit) {
  std::vector<Segment> runs;
  for (const Segment* s = begin; s < end; ++s) {
    if (!runs.empty() && runs.back().weight + runs.back().length * kLanes == s->weight) {
      runs.back().length += s->length;
    } else {
      runs.push_back({runs.empty() ? 0 : runs.back().input + round_up(runs.back().length, unit), s->weight, s->length});
    }
  }
  return runs;
}

// Bounds of chunks of at most `most` products each, as equal as they get; always one chunk at least.
inline std::vector<int> chunk_bounds(const std::vector<Segment>& segments, int most) {
  int total = 0;
  for (const Segment& s : segments) total += s.length;
  const int chunks = std::max(1, divide_up(total, most));
  std::vector<int> bounds{0};
  int sum = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    sum += segments[i].length;
    const bool more = i + 1 < segments.size();
    if (more && static_cast<long>(sum) * chunks >= static_cast<long>(total) * static_cast<long>(bounds.size())) {
      bounds.push_back(static_cast<int>(i) + 1);
    }
  }
  bounds.push_back(static_cast<int>(segments.size()));
  return bounds;
}

}  // namespace tapernet
