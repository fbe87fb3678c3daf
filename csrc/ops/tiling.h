// The fixed tile grid of every op: functions of the shape alone, never of threads, batch or instruction set.
#pragma once

#include <cstddef>

#include "ops/tensor.h"

namespace gaitcrafter {

// Tiles of a convolution. Where a frame is large a tile is a band of rows; where it is small, several whole frames.
// The input is copied, band by band, into an image with a halo, laid out [channel block][frame][row][column][channel];
// for tiles of the matrix unit [channel block][row][column][frame][channel], so that the pixels of an image row, frame
// by frame, lie at one distance and fill tiles whatever the width (amx_conv_product.h).
struct ConvGrid {
  int kernel = 3, stride = 1, padding = 1;
  int frames = 0, height = 0, width = 0;            // of the image that the tiles divide (output; input if transposed)
  int rows = 0, bands = 1;                          // rows of a band, bands of a frame
  int tile_frames = 1, tiles = 0;                   // frames of a tile
  int channels = 0, channel_block = 0, blocks = 0;  // input channels taken at once
  int image_width = 0;
  bool by_tiles = false;    // the grid is one for the matrix unit
  bool taps_apart = false;  // a run of K is one tap's channels; else those of a row of taps, which lie side by side
  int batch = 0;            // Winograd's 4x4 patches that are transformed together; 0: direct convolution
  size_t image_bytes = 0, scratch_bytes = 0;  // of the halo image, and of all scratch: sums lie after the image

  GC_INLINE bool winograd() const { return batch > 0; }
  // Rows of the halo image over `count` rows of a frame.
  GC_INLINE int image_rows(int count) const {
    return winograd() ? round_up(count, 2) + 2 : (count - 1) * stride + kernel;
  }
  GC_INLINE int statistics_slots() const { return frames * bands; }
};

// `height` and `width` are the output's. Kernel 4 with stride 2 is the downsampling; the transposed convolution uses
// the grid of a 3x3 convolution over its input.
ConvGrid conv_grid(OperandType operand, int frames, int height, int width, int channels, int kernel, int stride);

// Whether a 3x3 convolution at stride 1 is faster by winograd_grid.
bool prefers_winograd(int height, int width, int channels);

// Grid of a 3x3 convolution by Winograd's F(2x2, 3x3) (winograd.h), in fp32.
ConvGrid winograd_grid(int frames, int height, int width, int channels);

// Floats from one of the 16 matrices of a Winograd batch to the next; not a multiple of 4 KiB, so that the 16 streams
// of a transform do not share cache sets.
GC_INLINE constexpr ptrdiff_t winograd_stride(int batch, int columns) {
  return static_cast<ptrdiff_t>(batch) * columns + 16;
}

// Channels of one block: balanced, at most 64, so that a panel's weights of a block stay in the L2 cache. Tiles take as
// many bytes, and all blocks but the last are full.
int conv_channel_block(OperandType operand, int channels);

// ConvGrid::taps_apart: where a tap's channels fill tiles.
bool conv_taps_apart(OperandType operand, int channels, int stride);

// Sites whose frames are worked on together by temporal attention.
int temporal_attention_sites(OperandType operand, int channels, int heads, int dim, int frames, int sites);
// Tokens of one tile of linear attention.
int linear_attention_tokens(DType operand, int channels, int heads, int dim, int sites);
// Sites of one tile of temporal convolution.
int temporal_conv_sites(int channels, int frames, int sites);

// Elements from one row of a [row][token] matrix to the next: room for a vector past the last token, and an odd number
// of cache lines, so that a column of the matrix spreads over all sets of the L1 cache (with 1 KiB rows it would meet
// four of them).
GC_INLINE constexpr ptrdiff_t token_pitch(int tokens) {
  return ((tokens + 2 * kWidestLanes - 1) / kWidestLanes | 1) * kWidestLanes;
}

// Cuts scratch into arrays that begin on cache lines.
class ScratchCursor {
 public:
  GC_INLINE constexpr size_t take(size_t count, size_t element) {
    const size_t begin = bytes_;
    bytes_ += (count * element + 63) / 64 * 64;
    return begin;
  }
  GC_INLINE constexpr size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

// Scratch of softmax attention over `tokens` tokens of sequences of `length` (attention_product.h), in bytes. Products
// take operands in the element type; what they leave is fp32. In fp32 both are the same array.
struct AttentionLayout {
  ptrdiff_t pitch = 0;
  size_t x = 0, qkv = 0, operands = 0, output = 0, head_output = 0, scores = 0, weights = 0, row = 0, bytes = 0;
};

GC_INLINE constexpr AttentionLayout attention_layout(DType operand, int channels, int heads, int dim, int tokens,
                                                     int length) {
  constexpr size_t kBlock = 4 * kWidestLanes;
  const size_t element = static_cast<size_t>(bytes_of(operand));
  const bool convert = operand != DType::kF32;
  AttentionLayout l;
  ScratchCursor at;
  l.pitch = token_pitch(tokens);
  const size_t pitch = static_cast<size_t>(l.pitch), rows = static_cast<size_t>(dim);
  l.x = at.take(static_cast<size_t>(channels) * pitch, element);
  l.qkv = at.take(3 * rows * pitch, sizeof(float));
  l.operands = at.take(convert ? 3 * rows * pitch : 0, element);
  l.output = at.take(static_cast<size_t>(heads) * rows * pitch, element);
  l.head_output = at.take(convert ? rows * pitch : 0, sizeof(float));
  l.scores = at.take(static_cast<size_t>(length) * kBlock, sizeof(float));
  l.weights = at.take(convert ? static_cast<size_t>(round_up(length, 2)) * kBlock : 0, element);
  l.row = at.take(static_cast<size_t>(round_up(channels, kWidestLanes)) + kBlock, element);
  l.bytes = at.bytes();
  return l;
}

// The same by tiles of the matrix unit (amx_attention.h): sequences take whole tiles of tokens, and every operand whole
// steps of K.
struct TileAttentionLayout {
  int length = 0, slots = 0;               // tokens of a sequence, and with those that fill it up
  int depth = 0, rows = 0, key_depth = 0;  // C; dim as rows of a product; dim as its K
  int hidden = 0;                          // heads * dim as K
  ptrdiff_t pitch = 0, v_pitch = 0;        // of pairs of rows, in pairs; of v's rows, in elements
  size_t x = 0, x_pairs = 0, q = 0, k = 0, v = 0, scores = 0, weights = 0, outputs = 0, output_rows = 0, bytes = 0;
};

GC_INLINE constexpr TileAttentionLayout tile_attention_layout(int channels, int heads, int dim, int sequences,
                                                              int length) {
  constexpr int kTile = 16, kDepth = 32;
  constexpr size_t kElement = 2, kColumns = 32;
  TileAttentionLayout l;
  l.length = length;
  l.slots = round_up(length, kTile);
  l.depth = round_up(channels, kDepth);
  l.rows = round_up(dim, kTile);
  l.key_depth = round_up(dim, kDepth);
  l.hidden = round_up(heads * dim, kDepth);
  const int token_count = sequences * l.slots;
  l.pitch = token_pitch(token_count);
  l.v_pitch = ((round_up(token_count, kDepth) / kDepth + 1) | 1) * kDepth;
  const size_t tokens = static_cast<size_t>(token_count), pitch = static_cast<size_t>(l.pitch);
  const size_t depth = static_cast<size_t>(l.depth), key_depth = static_cast<size_t>(l.key_depth);
  const size_t hidden = static_cast<size_t>(l.hidden);
  ScratchCursor at;
  l.x = at.take(tokens * depth, kElement);
  l.x_pairs = at.take(depth * pitch, kElement);
  l.q = at.take(key_depth * pitch, kElement);
  l.k = at.take(tokens * key_depth, kElement);
  l.v = at.take(static_cast<size_t>(l.rows) * static_cast<size_t>(l.v_pitch), kElement);
  l.scores = at.take(static_cast<size_t>(l.slots) * kColumns, sizeof(float));
  l.weights = at.take(static_cast<size_t>(round_up(length, kDepth)) * kColumns, kElement);
  l.outputs = at.take(hidden * pitch, kElement);
  l.output_rows = at.take(tokens * hidden, kElement);
  l.bytes = at.bytes();
  return l;
}

// Scratch of linear attention, in bytes.
struct LinearAttentionLayout {
  int tokens = 0, tiles = 0, dim_padded = 0;
  ptrdiff_t pitch = 0;
  size_t slots = 0, x = 0, kv = 0, kv_operands = 0, columns = 0, q = 0, q_operands = 0, context = 0, folded = 0,
         folded_operands = 0, row = 0, bytes = 0;
};

// The same by tiles of the matrix unit (amx_linear_attention.h): what lies after a TileAttentionLayout of one sequence
// of `tokens`.
struct TileLinearLayout {
  int tokens = 0, tiles = 0;
  size_t contexts = 0, k_sums = 0, v_pairs = 0, diagonal = 0, folded = 0, bytes = 0;
};

TileLinearLayout tile_linear_layout(int channels, int heads, int dim, int sites);

LinearAttentionLayout linear_attention_layout(DType operand, int channels, int heads, int dim, int sites);

// Scratch of one tile, in bytes.
size_t temporal_attention_scratch(OperandType operand, int channels, int heads, int dim, int frames, int sites);
size_t spatial_attention_scratch(OperandType operand, int channels, int heads, int dim, int sites);
size_t linear_attention_scratch(OperandType operand, int channels, int heads, int dim, int sites);
size_t temporal_conv_scratch(OperandType operand, int channels, int frames, int sites);

}  // namespace gaitcrafter
