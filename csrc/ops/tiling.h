// The fixed tile grid of every op: functions of the shape alone, never of threads, batch or instruction set.
#pragma once

#include <cstddef>

#include "ops/tensor.h"

namespace gaitcrafter {

// Tiles of a convolution. Where a frame is large a tile is a band of rows; where it is small, several whole frames.
// The input is copied, band by band, into an image with a halo, laid out [channel block][frame][row][column][channel].
struct ConvGrid {
  int kernel = 3, stride = 1, padding = 1;
  int frames = 0, height = 0, width = 0;            // of the image that the tiles divide (output; input if transposed)
  int rows = 0, bands = 1;                          // rows of a band, bands of a frame
  int tile_frames = 1, tiles = 0;                   // frames of a tile
  int channels = 0, channel_block = 0, blocks = 0;  // input channels taken at once
  int image_width = 0;
  int batch = 0;  // Winograd's 4x4 patches that are transformed together; 0: direct convolution
  size_t scratch_floats = 0;

  GC_INLINE bool winograd() const { return batch > 0; }
  // Rows of the halo image over `count` rows of a frame.
  GC_INLINE int image_rows(int count) const {
    return winograd() ? round_up(count, 2) + 2 : (count - 1) * stride + kernel;
  }
  GC_INLINE int statistics_slots() const { return frames * bands; }
};

// `height` and `width` are the output's. Kernel 4 with stride 2 is the downsampling; the transposed convolution uses
// the grid of a 3x3 convolution over its input.
ConvGrid conv_grid(int frames, int height, int width, int channels, int kernel, int stride);

// Whether a 3x3 convolution at stride 1 is faster by winograd_grid.
bool prefers_winograd(int height, int width, int channels);

// Grid of a 3x3 convolution by Winograd's F(2x2, 3x3) (winograd.h).
ConvGrid winograd_grid(int frames, int height, int width, int channels);

// Floats from one of the 16 matrices of a Winograd batch to the next; not a multiple of 4 KiB, so that the 16 streams
// of a transform do not share cache sets.
GC_INLINE constexpr ptrdiff_t winograd_stride(int batch, int columns) {
  return static_cast<ptrdiff_t>(batch) * columns + 16;
}

// Channels of one block: balanced, at most 64, so that a panel's weights of a block stay in the L2 cache.
int conv_channel_block(int channels);

// Sites whose frames are worked on together by temporal attention.
int temporal_attention_sites(int channels, int heads, int dim, int frames, int sites);
// Tokens of one tile of linear attention.
int linear_attention_tokens(int channels, int heads, int dim, int sites);
// Sites of one tile of temporal convolution.
int temporal_conv_sites(int channels, int frames, int sites);

// Floats from one row of a [row][token] matrix to the next: room for a vector past the last token, and an odd number of
// cache lines, so that a column of the matrix spreads over all sets of the L1 cache (with 1 KiB rows it would meet four
// of them).
GC_INLINE constexpr ptrdiff_t token_pitch(int tokens) {
  return ((tokens + 2 * kWidestLanes - 1) / kWidestLanes | 1) * kWidestLanes;
}

// Scratch of one tile, in floats.
size_t temporal_attention_scratch(int channels, int heads, int dim, int frames, int sites);
size_t spatial_attention_scratch(int channels, int heads, int dim, int sites);
size_t linear_attention_scratch(int channels, int heads, int dim, int sites);
size_t temporal_conv_scratch(int channels, int frames, int sites);

}  // namespace gaitcrafter
