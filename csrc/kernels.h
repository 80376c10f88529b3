// What the compute kernels take, and the table of them for each instruction set.
//
// Activations lie in blocks of 16 channels: [block][row][column][16], with a border of zeros around the image where a
// convolution pads. So 16 filters that are computed together write whole vectors, and channels that a budget drops are
// the blocks at the end (and the last lanes of one block, which hold zeros).
//
// The structs are plain and the functions take nothing from the standard library: a template that is instantiated in a
// file compiled for AVX2 may be the copy that the linker keeps for the whole program. `make kernels-check` looks for such.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tapernet {

constexpr int kLanes = 16;       // channels in a block, and filters computed together
constexpr int kTilePixels = 64;  // output pixels that a terminating convolution looks at together

// Consecutive products of a sum: where they start in the input patch and in the filter, and how many there are.
struct Segment {
  int32_t input;
  int32_t weight;
  int32_t length;
};

// Pixels of a call, [begin, end), whose sums have the same products.
struct PixelGroup {
  int begin, end;
  const Segment* segments;  // weights of segment s: [length][16 filters] from `weight`
  const int* chunks;        // bounds of segments, one more than the call has chunks
};

// Several output pixels of a convolution for several blocks of filters.
struct DenseCall {
  const float* const* inputs;  // of each pixel, where its patch starts
  float* const* outputs;       // of each pixel, where it lies in the first block of the output
  const PixelGroup* groups;
  int group_count;
  int chunk_count;             // products are done in chunks whose weights fit the first cache
  const float* weights;        // of the first block of filters, computed or not
  ptrdiff_t weight_stride;     // floats from one block of filters to the next
  int begin, end;              // blocks of filters to compute, one at least
  int last_filters;            // filters to compute of the last block; those after them become zero
  ptrdiff_t output_stride;     // floats from one block of output channels to the next
  const float* scale;          // result = clamp(sum * scale + shift), one of each for a filter
  const float* shift;
  float low, high;
  bool far;                    // whether the weights are more than the second cache holds, and worth fetching ahead
};

// A row of output pixels of a depthwise convolution, one block of channels.
struct DepthwiseCall {
  const float* input;          // patch of the first pixel
  float* output;
  int pixels;
  ptrdiff_t pixel_stride;      // floats between the patches of neighbouring pixels
  int taps;
  const int32_t* offsets;      // of each tap within a patch
  const float* weights;        // [tap][16]
  const float* scale;
  const float* shift;
  float low, high;
};

// The inputs that one output of a pooling reads along one axis, and by how many an average divides.
struct Window {
  int begin, end, counted;
};

// One block of channels of one image through a pooling.
struct PoolCall {
  const float* input;          // first pixel of the image, past the border
  ptrdiff_t input_row;
  float* output;
  ptrdiff_t output_row;
  const Window* rows;
  const Window* columns;
  int height, width;           // of the output
  bool average;
  int divisor;                 // of an average; 0 takes what the windows count
  float low, high;
};

// A row of a block of 16 channels, to planes in which every output of a convolution finds a tap's input at its own place:
// plane w of a channel holds at x what kernel column w of output column x reads.
struct PlanesCall {
  const float* input;          // pixels of 16 channels, from the one that the first output's patch starts with
  int channels, pixels;
  int kernel_w, dilation_w, stride_w;
  int columns;                 // of the output; a multiple of 8
  float* apart;                // [channel][apart_stride], memory for the row with its channels apart
  ptrdiff_t apart_stride;
  float* output;
  ptrdiff_t channel_stride, plane_stride;
};

// A product of a partial sum: where its input lies from the tile's origin, and its weight.
struct Tap {
  int32_t input;
  float weight;
};

// The partial sums of all filters over one tile of 64 output pixels, compared with their thresholds.
struct PartialCall {
  const float* input;          // planes, at the tile's origin
  ptrdiff_t row_stride;        // floats from one output row of the tile to the next
  int columns;                 // of the tile: 8, 16 or 32
  const Tap* taps;
  const int32_t* bounds;       // [check][chunk][filter], and one more: the taps of each
  int checks, chunks, filters;
  const float* start;          // of each filter's sum: zero, or the bias
  const float* thresholds;     // [check][filter]
  float* sums;                 // [filter][64], memory for sums under way
  float* emitted;              // [filter][64], takes the sums of stopped outputs; null if nobody needs them
  uint64_t* alive;             // [filter], in: outputs that exist; out: those that did not stop
};

// What sums of rounded products are worth: (sum - zeros[filter]) * factors[filter] + start[filter].
struct Worth {
  const int32_t* zeros;        // [filter], what the inputs' zero added to the sum
  const float* factors;
  const float* start;
  const uint8_t* places;       // of each pixel, in the tile
  float* emitted;              // [block of filters][64 pixels][16 filters]; null if nobody needs them
};

// The sums of all filters over some output pixels with inputs and weights rounded to eight bits, compared with the least
// that goes on.
struct RoundedCall {
  const uint8_t* input;        // in blocks of 16 channels, at the patch of the tile's first pixel
  const int32_t* pixels;       // where the patch of each pixel starts, from there; up to a multiple of 8
  int count;                   // of pixels, 64 at most
  const Segment* segments;     // whole blocks: lengths are multiples of 16, weights those of 16 filters
  int segment_count;
  // The segments as a processor with tiles wants them: one after the other, a new row of 64 wherever the weights jump.
  const Segment* runs;         // `input` is where a run starts in the packed inputs of a pixel, a multiple of 64
  int run_count;
  int row;                     // of a pixel's packed inputs, a multiple of 64
  uint8_t* packed;             // memory for 64 rows and one line more
  const int8_t* weights;       // [block of filters][product / 4][16 filters][4 products]
  ptrdiff_t weight_stride;     // from one block of filters to the next
  int blocks;                  // of filters
  const int32_t* least;        // [filter]
  uint64_t* alive;             // [filter], out: bit i tells whether pixel i goes on
  Worth worth;                 // of every sum, whether it goes on or not
};

// Some products of the full sums of the outputs of a tile that did not stop.
struct SurvivorCall {
  const uint64_t* alive;       // [filter]
  int filters;
  const float* input;          // in blocks of 16 channels, at the patch of the tile's first pixel
  const int32_t* pixels;       // [64], where the patch of each pixel starts, from there
  const Segment* segments;     // whole vectors: lengths are multiples of 16
  int segment_count;
  int blocks;                  // blocks of 16 in every segment, or zero if they differ
  const float* weights;        // a filter after the other
  ptrdiff_t weight_stride;
  const float* bias;           // where the sums begin; null where they go on from `sums`
  float* sums;                 // [block of filters][1024]; only survivors are written
  int filter_step, pixel_step; // floats from a filter of a block to the next, and from pixel to pixel: 64, 1 or 1, 16
};

struct Kernels {
  const char* name;
  void (*dense)(const DenseCall&);
  void (*depthwise)(const DepthwiseCall&);
  void (*pool)(const PoolCall&);
  // out[i] = clamp(in[i] * scale + shift) for pixels of 16 channels
  void (*affine)(const float* in, float* out, int pixels, const float* scale, const float* shift, float low,
                 float high);
  void (*add)(const float* a, const float* b, float* out, int pixels, float low, float high);
  // `channels` rows of pixels, one channel each, to pixels of `lanes` channels; the lanes beyond are zero
  void (*interleave)(const float* in, ptrdiff_t channel_stride, int channels, int pixels, float* out, int lanes);
  // the way back, for pixels of 16 channels
  void (*deinterleave)(const float* in, int channels, int pixels, float* out, ptrdiff_t channel_stride);
  void (*planes)(const PlanesCall&);
  void (*partial_sums)(const PartialCall&);
  // The least and the greatest of so many numbers, a multiple of 16; zero counts, too.
  void (*range)(const float* in, ptrdiff_t count, float* low, float* high);
  // out[i] = zero + in[i] * scale, to the nearest whole number in [0, 255], ties to the even one
  void (*round)(const float* in, ptrdiff_t count, float scale, int zero, uint8_t* out);
  void (*rounded_sums)(const RoundedCall&);
  bool multiplies_bytes;  // whether the processor does, so that rounded sums take less time than exact ones
  void (*survivors)(const SurvivorCall&);
};

// The table of each set: constants, null where the compiler did not know the set. Only `available_kernels` tells which of
// them this processor runs.
extern const Kernels* const portable_kernels;
extern const Kernels* const avx2_kernels;         // and FMA
extern const Kernels* const avx512_kernels;       // F, BW, DQ and VL
extern const Kernels* const avx512_vnni_kernels;  // those, and products of bytes
extern const Kernels* const amx_kernels;          // those, and tiles of bytes
extern const Kernels* const neon_kernels;

}  // namespace tapernet
