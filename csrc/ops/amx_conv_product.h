// conv_product.h by tiles of the matrix unit. The pixels of an image row lie at one distance, frames of a column side
// by side, so 16 of them are a tile's rows: `width x frames` pixels fill tiles, whatever the width.
#pragma once

#include "ops/amx_product.h"
#include "ops/halo_image.h"
#include "ops/product.h"

namespace gaitcrafter {
namespace {

constexpr int kMaxTaps = 49;

// A window of rows x columns of the image seen from every pixel of the tile.
struct WindowProduct {
  int rows, columns;                    // of the window
  int row_shift = 0, column_shift = 0;  // its corner, from the pixel's place in the image
  Packed weight;
};

// Walks a tile's pixels: all frames of a column, then the next column.
class PixelCursor {
 public:
  GC_INLINE PixelCursor(int frames, int row, int pixel)
      : frames_(frames), row_(row), column_(pixel / frames), frame_(pixel % frames) {}

  GC_INLINE int frame() const { return frame_; }
  GC_INLINE int row() const { return row_; }
  GC_INLINE int column() const { return column_; }
  GC_INLINE void advance() {
    if (++frame_ < frames_) return;
    frame_ = 0;
    ++column_;
  }

 private:
  int frames_, row_, column_, frame_;
};

// The runs of K of one channel block, in bytes from a pixel's place in the image.
struct WindowRuns {
  ptrdiff_t offset[kMaxTaps];
  int count = 0, steps = 0;
};

GC_INLINE WindowRuns window_runs(const ConvGrid& g, const ConvWindow& w, const WindowProduct& args, int channels,
                                 int element) {
  const ptrdiff_t pixel = static_cast<ptrdiff_t>(w.frames) * channels * element, row = g.image_width * pixel;
  WindowRuns runs;
  const int apart = g.taps_apart ? args.columns : 1;
  for (int y = 0; y < args.rows; ++y)
    for (int x = 0; x < apart; ++x)
      runs.offset[runs.count++] = (y + args.row_shift) * row + image_column(g, x + args.column_shift) * pixel;
  runs.steps = ceil_div((g.taps_apart ? channels : args.columns * channels) * element, kTileRowBytes);
  return runs;
}

// The finished sums of `pixels` pixels, from row `row` of a block on.
template <class Math, class AddressOf>
GC_INLINE void finish_pixels(const typename Math::Finish& finish, TileBlock sums, int row, int pixels, int vectors,
                             int columns, PixelCursor cursor, AddressOf address) {
  const int rest = columns - (vectors - 1) * kLanes;
  for (int i = 0; i < pixels; ++i, cursor.advance()) {
    Elem* c = address(cursor);
    for (int n = 0; n < vectors; ++n) {
      typename Math::Sum v = block_sum<Math>(sums, row + i, n);
      if constexpr (sizeof(typename Math::A) == 1) v += Math::start(finish, n);
      Math::template put<Elem>(finish, n, v, static_cast<const typename Math::Partial*>(nullptr), c + n * kLanes,
                               n + 1 < vectors ? kLanes : rest);
    }
  }
}

// As in conv_product.h. Sums over channel blocks wait in `partial`, tile after tile of pixels x one panel.
template <class Math, class FinishAt, class AddressOf>
void window_product(const ConvGrid& g, const ConvWindow& w, const WindowProduct& args, const typename Math::A* image,
                    typename Math::Partial* partial, FinishAt finish, AddressOf address) {
  constexpr int kElement = sizeof(typename Math::A);
  alignas(64) std::byte last_sums[kBlockRows * kBlockPitch];
  const int run = g.width * w.frames, row_tiles = ceil_div(run, kTileRows), tiles = w.rows * row_tiles;
  for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
    const ProductOf<Math> p = packed_product_of<Math>(args.weight, panel);
    const int column = first_column(args.weight.n, panel);
    const auto* b = reinterpret_cast<const std::byte*>(p.b);
    for (int block = 0; block < g.blocks; ++block) {
      const int channels = block_channels(g, block);
      const WindowRuns runs = window_runs(g, w, args, channels, kElement);
      const ptrdiff_t pixel = static_cast<ptrdiff_t>(channels) * kElement, row = pixel * w.frames * g.image_width;
      const auto* base = reinterpret_cast<const std::byte*>(image + block * image_block(g, w));
      const bool first = block == 0, last = block + 1 == g.blocks;
      TileSums s;
      s.a_pitch = pixel;
      s.b = b;
      s.b_pitch = p.vectors * kTileRowBytes;
      s.segment = runs.offset;
      s.segments = runs.count;
      s.steps = runs.steps;
      typename Math::Finish f = finish(column);
      for (int t = 0; t < tiles; t += kBlockTiles) {
        const int count = min_of(kBlockTiles, tiles - t);
        for (int i = 0; i < count; ++i)
          s.a[i] = base + (t + i) / row_tiles * g.stride * row + (t + i) % row_tiles * kTileRows * pixel;
        const TileBlock waiting = {reinterpret_cast<std::byte*>(partial) + t * p.vectors * kTileBytes, s.b_pitch};
        s.from = first ? TileBlock{} : waiting;
        s.to = last ? TileBlock{last_sums, s.b_pitch} : waiting;
        sum_tiles<Math>(s, count, p.vectors);
        if (!last) continue;
        for (int i = 0; i < count; ++i) {
          const int from = (t + i) % row_tiles * kTileRows;
          finish_pixels<Math>(f, s.to, i * kTileRows, min_of(kTileRows, run - from), p.vectors, p.columns,
                              PixelCursor(w.frames, (t + i) / row_tiles, from),
                              [&](const PixelCursor& at) { return address(at) + column; });
        }
      }
      b += static_cast<ptrdiff_t>(runs.count) * runs.steps * kTileRows * s.b_pitch;
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
