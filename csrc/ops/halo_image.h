// The halo image of a convolution tile: its input, activated and zero-padded, in one piece of cache-sized memory.
// The copy touches every value once where the convolution reads it kernel^2 * panels times.
#pragma once

#include "ops/simd.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

// The rows of the frames that one tile covers.
struct ConvWindow {
  int frame, frames, row, rows;

  GC_INLINE int pixels(int width) const { return frames * rows * width; }
};

GC_INLINE ConvWindow conv_window(const ConvGrid& g, int tile) {
  if (g.bands > 1) {
    const int row = tile % g.bands * g.rows;
    return {tile / g.bands, 1, row, min_of(g.rows, g.height - row)};
  }
  const int frame = tile * g.tile_frames;
  return {frame, min_of(g.tile_frames, g.frames - frame), 0, g.height};
}

GC_INLINE void fill_zero(Elem* p, ptrdiff_t count) {
  __builtin_memset(p, 0, static_cast<size_t>(count) * sizeof(Elem));
}

template <bool kActivate>
GC_INLINE void copy_pixel(const Elem* x, const float* scale, const float* shift, int channels, Elem* y) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Vec v = load(x + c);
    store(y + c, kActivate ? silu(v * load(scale + c) + load(shift + c)) : v);
  }
  const int rest = channels - c;
  if (rest == 0) return;
  const Vec v = load_first(x + c, rest);
  store_first(y + c, kActivate ? silu(v * load_first(scale + c, rest) + load_first(shift + c, rest)) : v, rest);
}

// Columns [-padding, image_width - padding) of image row `row` of a frame, channels [channel, channel + count).
template <bool kActivate>
void copy_row(const Tensor& in, const ConvGrid& g, int frame, int row, int channel, int count, Elem* y) {
  const ptrdiff_t left = static_cast<ptrdiff_t>(g.padding) * count;
  const float* scale = kActivate ? in.pending.scale + frame * in.pending.frame_stride + channel : nullptr;
  const float* shift = kActivate ? in.pending.shift + frame * in.pending.frame_stride + channel : nullptr;
  const Elem* x = in.pixel<Elem>((static_cast<ptrdiff_t>(frame) * in.height + row) * in.width) + channel;
  fill_zero(y, left);
  if (!kActivate && in.pitch == count)
    __builtin_memcpy(y + left, x, static_cast<size_t>(in.width) * count * sizeof(Elem));
  else
    for (int i = 0; i < in.width; ++i)
      copy_pixel<kActivate>(x + i * in.pitch, scale, shift, count, y + left + i * count);
  fill_zero(y + left + static_cast<ptrdiff_t>(in.width) * count,
            static_cast<ptrdiff_t>(g.image_width - in.width) * count - left);
}

// Elements of one frame, and of one channel block, of a tile's image.
GC_INLINE ptrdiff_t image_frame(const ConvGrid& g, int rows) {
  return static_cast<ptrdiff_t>(g.image_rows(rows)) * g.image_width * g.channel_block;
}

GC_INLINE ptrdiff_t image_block(const ConvGrid& g, const ConvWindow& w) { return w.frames * image_frame(g, w.rows); }

// Channels of a block: the last one may be narrower, and its image rows are packed tighter.
GC_INLINE int block_channels(const ConvGrid& g, int block) {
  return min_of(g.channel_block, g.channels - block * g.channel_block);
}

// Where pairs are multiplied, the last step of a window row may reach past the image (product.h). What it meets there
// is multiplied by zero, but may not be NaN.
void fill_image(const Tensor& in, const ConvGrid& g, const ConvWindow& w, Elem* image) {
  const int rows = g.image_rows(w.rows);
  for (int block = 0; block < g.blocks; ++block) {
    const int count = block_channels(g, block), channel = block * g.channel_block;
    const ptrdiff_t row_elements = static_cast<ptrdiff_t>(g.image_width) * count;
    for (int f = 0; f < w.frames; ++f) {
      Elem* y = image + block * image_block(g, w) + f * image_frame(g, w.rows);
      for (int r = 0; r < rows; ++r, y += row_elements) {
        const int row = w.row * g.stride + r - g.padding;
        if (row < 0 || row >= in.height)
          fill_zero(y, row_elements);
        else if (in.pending.scale != nullptr)
          copy_row<true>(in, g, w.frame + f, row, channel, count, y);
        else
          copy_row<false>(in, g, w.frame + f, row, channel, count, y);
      }
      if (kPair > 1) fill_zero(y, kPair);  // past the frame; the next one overwrites it
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
