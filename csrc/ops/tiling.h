// The fixed tile grid of every op: functions of the shape alone, never of threads, batch or instruction set.
#pragma once

#include <cstddef>

#include "ops/tensor.h"

namespace gaitcrafter {

// Tiles of a convolution. Where a frame is large a tile is a band of rows; where it is small, several whole frames.
// The input is copied, band by band, into an image with a halo, laid out [channel block][frame][row][column][channel].
struct ConvGrid {
  int kernel = 3, stride = 1, padding = 1;
  int frames = 0, height = 0, width = 0;           // of the image that the tiles divide (output; input if transposed)
  int rows = 0, bands = 1;                         // rows of a band, bands of a frame
  int tile_frames = 1, tiles = 0;                  // frames of a tile
  int channels = 0, channel_block = 0, blocks = 0; // input channels taken at once
  int image_rows = 0, image_width = 0;             // of the halo image of one frame of a full tile
  size_t scratch_floats = 0;
  int statistics_slots() const { return frames * bands; }
};

// `height` and `width` are the output's. Kernel 4 with stride 2 is the downsampling; the transposed convolution uses the
// grid of a 3x3 convolution over its input.
ConvGrid conv_grid(int frames, int height, int width, int channels, int kernel, int stride);

// Channels of one block: balanced, at most 64, so that a panel's weights of a block stay in the L2 cache.
int conv_channel_block(int channels);

// Sites whose frames are worked on together by temporal attention.
int temporal_attention_sites(int channels, int heads, int dim, int frames, int sites);
// Tokens of one tile of linear attention.
int linear_attention_tokens(int channels, int heads, int dim, int sites);
// Sites of one tile of temporal convolution.
int temporal_conv_sites(int channels, int frames, int sites);

// Scratch of one tile, in floats.
size_t temporal_attention_scratch(int channels, int heads, int dim, int frames, int sites);
size_t spatial_attention_scratch(int channels, int heads, int dim, int sites);
size_t linear_attention_scratch(int channels, int heads, int dim, int sites);
size_t temporal_conv_scratch(int channels, int frames, int sites);

}  // namespace gaitcrafter
