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

// Where a tile's output pixels lie, `frame`, `row` and `column` elements from one to the next.
struct WindowOutput {
  Elem* first;
  ptrdiff_t frame, row, column;
};

// How pixels get into an image: as they are, in the type of activations.
struct PixelCopy {
  using E = Elem;

  // `pixels` pixels outside the frame, `count` channels from `channel` on.
  GC_INLINE void pad(E* y, ptrdiff_t pixels, int, int count) const {
    __builtin_memset(y, 0, static_cast<size_t>(pixels) * count * sizeof(E));
  }
  GC_INLINE void put(E* y, Vec v, int) const { store(y, v); }
  GC_INLINE void put_first(E* y, Vec v, int, int n) const { store_first(y, v, n); }
};

template <bool kActivate, class Writer>
GC_INLINE void copy_pixel(const Elem* x, const float* scale, const float* shift, int channel, int count,
                          const Writer& writer, typename Writer::E* y) {
  int c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    const Vec v = load(x + c);
    writer.put(y + c, kActivate ? silu(v * load(scale + c) + load(shift + c)) : v, channel + c);
  }
  const int rest = count - c;
  if (rest == 0) return;
  const Vec v = load_first(x + c, rest);
  writer.put_first(y + c, kActivate ? silu(v * load_first(scale + c, rest) + load_first(shift + c, rest)) : v,
                   channel + c, rest);
}

// Where a column lies in an image row. At stride 2 tiles want every second pixel at one distance: even columns come
// before odd ones.
GC_INLINE int image_column(const ConvGrid& g, int column) {
  if (!g.by_tiles || g.stride == 1) return column;
  return column % 2 * ((g.image_width + 1) / 2) + column / 2;
}

// Pixels of kVectors vectors; their scales and shifts stay in registers over the row.
template <bool kActivate, int kVectors, class Writer, class PlaceOf>
GC_INLINE void copy_whole_pixels(const Elem* x, ptrdiff_t pitch, int pixels, const float* scale, const float* shift,
                                 int channel, const Writer& writer, PlaceOf place) {
  Vec a[kVectors], b[kVectors];
  for (int n = 0; n < kVectors; ++n) {
    a[n] = kActivate ? load(scale + n * kLanes) : Vec{};
    b[n] = kActivate ? load(shift + n * kLanes) : Vec{};
  }
  for (int i = 0; i < pixels; ++i, x += pitch) {
    typename Writer::E* y = place(i);
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      const Vec v = load(x + n * kLanes);
      writer.put(y + n * kLanes, kActivate ? silu(v * a[n] + b[n]) : v, channel + n * kLanes);
    }
  }
}

// The pixels of image row `row` of a frame that lie inside it, channels [channel, channel + count), `step` elements
// from one column to the next.
template <bool kActivate, class Writer>
void copy_row(const Tensor& in, const ConvGrid& g, int frame, int row, int channel, int count, const Writer& writer,
              ptrdiff_t step, typename Writer::E* y) {
  const float* scale = kActivate ? in.pending.scale + frame * in.pending.frame_stride + channel : nullptr;
  const float* shift = kActivate ? in.pending.shift + frame * in.pending.frame_stride + channel : nullptr;
  const Elem* x = in.pixel<Elem>((static_cast<ptrdiff_t>(frame) * in.height + row) * in.width) + channel;
  const auto place = [&](int i) { return y + image_column(g, g.padding + i) * step; };
  if (count == 2 * kLanes) {
    copy_whole_pixels<kActivate, 2>(x, in.pitch, in.width, scale, shift, channel, writer, place);
  } else if (count == 4 * kLanes) {
    copy_whole_pixels<kActivate, 4>(x, in.pitch, in.width, scale, shift, channel, writer, place);
  } else {
    for (int i = 0; i < in.width; ++i, x += in.pitch)
      copy_pixel<kActivate>(x, scale, shift, channel, count, writer, place(i));
  }
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

// One image row of `frames` frames whose pixels alternate.
template <class Writer>
void fill_row(const Tensor& in, const ConvGrid& g, int frame, int frames, int row, int channel, int count,
              const Writer& writer, typename Writer::E* y) {
  const ptrdiff_t step = static_cast<ptrdiff_t>(frames) * count;
  if (row < 0 || row >= in.height) {
    writer.pad(y, static_cast<ptrdiff_t>(g.image_width) * frames, channel, count);
    return;
  }
  for (int i = 0; i < g.padding; ++i) writer.pad(y + image_column(g, i) * step, frames, channel, count);
  for (int i = g.padding + in.width; i < g.image_width; ++i)
    writer.pad(y + image_column(g, i) * step, frames, channel, count);
  for (int f = 0; f < frames; ++f, y += count) {
    if (in.pending.scale != nullptr)
      copy_row<true>(in, g, frame + f, row, channel, count, writer, step, y);
    else
      copy_row<false>(in, g, frame + f, row, channel, count, writer, step, y);
  }
}

// Where elements are multiplied in groups, the last step of a run of K may reach past the image (product.h). What it
// meets there is multiplied by zero, but may not be NaN.
template <class Writer>
void fill_image(const Tensor& in, const ConvGrid& g, const ConvWindow& w, const Writer& writer,
                typename Writer::E* image) {
  const int rows = g.image_rows(w.rows), frames = g.by_tiles ? w.frames : 1;
  for (int block = 0; block < g.blocks; ++block) {
    const int count = block_channels(g, block), channel = block * g.channel_block;
    const ptrdiff_t row_elements = static_cast<ptrdiff_t>(g.image_width) * frames * count;
    for (int f = 0; f < w.frames; f += frames) {
      typename Writer::E* y = image + block * image_block(g, w) + f * image_frame(g, w.rows);
      for (int r = 0; r < rows; ++r, y += row_elements)
        fill_row(in, g, w.frame + f, frames, w.row * g.stride + r - g.padding, channel, count, writer, y);
      // The next frame or block overwrites it.
      if (kPair > 1) __builtin_memset(y, 0, g.by_tiles ? 64 : kPair * sizeof(Elem));
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
