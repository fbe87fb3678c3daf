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

GC_INLINE Vec finished(const ElementMath::Finish& f, int n, Vec v) { return v + load(f.bias + n * kLanes); }

// Turns blocks of sums into output pixels, a few rows at a time, while the sums of the next block are made.
template <class Math>
class PixelFinisher {
 public:
  GC_INLINE PixelFinisher(const WindowOutput& out, int frames)
      : frames_(frames), frame_step_(out.frame), column_step_(out.column - frames * out.frame), out_(out) {}

  // The columns that blocks have from now on.
  GC_INLINE void enter_panel(const typename Math::Finish& finish, int column, int columns, int vectors) {
    next_finish_ = finish;
    next_column_ = column;
    next_rest_ = columns - (vectors - 1) * kLanes;
    next_vectors_ = vectors;
  }

  // Tile `i` of the block: `pixels` pixels of image row `row`, from `first` on, counted frame by frame.
  GC_INLINE void add(TileBlock sums, int i, int row, int first, int pixels) {
    finish_ = next_finish_;
    rest_ = next_rest_;
    vectors_ = next_vectors_;
    Run& run = runs_[i];
    run.sums = sums.data + i * kTileRows * sums.pitch;
    pitch_ = sums.pitch;
    run.left = pixels;
    run.frame = first % frames_;
    run.c = out_.first + row * out_.row + first / frames_ * out_.column + run.frame * out_.frame + next_column_;
  }

  // `rows` rows of what was added go out at every step of the next block.
  GC_INLINE void spread(int steps) { rows_ = (runs_[0].left + runs_[1].left + steps - 1) / steps; }
  GC_INLINE void operator()() {
    int rows = rows_;
    for (Run& run : runs_) {
      const int count = min_of(rows, run.left);
      if (count == 0) continue;
      if (vectors_ == 2 && rest_ == kLanes)
        put<2, true>(run, count);
      else if (vectors_ == 2)
        put<2, false>(run, count);
      else
        put<1, false>(run, count);
      rows -= count;
    }
  }
  GC_INLINE void drain() {
    rows_ = kBlockRows;
    (*this)();
  }

 private:
  struct Run {
    const std::byte* sums = nullptr;
    Elem* c = nullptr;
    int frame = 0, left = 0;
  };

  template <int kVectors, bool kWhole>
  GC_INLINE void put(Run& run, int count) {
    const typename Math::Finish finish = finish_;
    const std::byte* sums = run.sums;
    Elem* c = run.c;
    int frame = run.frame;
    for (int i = 0; i < count; ++i, sums += pitch_) {
      Vec v[kVectors];
      for (int n = 0; n < kVectors; ++n)
        v[n] = finished(finish, n, block_sum<Math>({const_cast<std::byte*>(sums), 0}, 0, n));
      if constexpr (kWhole && kVectors == 2) {
        store_both(c, v[0], v[1]);
      } else {
        for (int n = 0; n + 1 < kVectors; ++n) store(c + n * kLanes, v[n]);
        store_first(c + (kVectors - 1) * kLanes, v[kVectors - 1], rest_);
      }
      c += frame_step_;
      if (++frame == frames_) {
        frame = 0;
        c += column_step_;
      }
    }
    run.sums = sums;
    run.c = c;
    run.frame = frame;
    run.left -= count;
  }

  int frames_, rows_ = 0, rest_ = kLanes, vectors_ = 1;
  int next_column_ = 0, next_rest_ = kLanes, next_vectors_ = 1;
  ptrdiff_t frame_step_, column_step_, pitch_ = 0;
  typename Math::Finish finish_, next_finish_;
  WindowOutput out_;
  Run runs_[kBlockTiles];
};

// As in conv_product.h. Sums over channel blocks wait in `partial`, tile after tile of pixels x one panel.
template <class Math, class FinishAt>
void window_product(const ConvGrid& g, const ConvWindow& w, const WindowProduct& args, const typename Math::A* image,
                    typename Math::Partial* partial, FinishAt finish, const WindowOutput& out) {
  constexpr int kElement = sizeof(typename Math::A);
  alignas(64) std::byte last_sums[2][kBlockRows * kBlockPitch];
  const int run = g.width * w.frames, row_tiles = ceil_div(run, kTileRows), tiles = w.rows * row_tiles;
  PixelFinisher<Math> finisher(out, w.frames);
  int turn = 0;
  for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
    const ProductOf<Math> p = packed_product_of<Math>(args.weight, panel);
    const int column = first_column(args.weight.n, panel);
    const auto* b = reinterpret_cast<const std::byte*>(p.b);
    finisher.enter_panel(finish(column), column, p.columns, p.vectors);
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
      for (int t = 0; t < tiles; t += kBlockTiles) {
        const int count = min_of(kBlockTiles, tiles - t);
        for (int i = 0; i < count; ++i)
          s.a[i] = base + (t + i) / row_tiles * g.stride * row + (t + i) % row_tiles * kTileRows * pixel;
        const TileBlock waiting = {reinterpret_cast<std::byte*>(partial) + t * p.vectors * kTileBytes, s.b_pitch};
        s.from = first ? TileBlock{} : waiting;
        s.to = last ? TileBlock{last_sums[turn], s.b_pitch} : waiting;
        finisher.spread(runs.count * runs.steps);
        sum_tiles<Math>(s, count, p.vectors, finisher);
        if (!last) continue;
        for (int i = 0; i < count; ++i) {
          const int from = (t + i) % row_tiles * kTileRows;
          finisher.add(s.to, i, (t + i) / row_tiles, from, min_of(kTileRows, run - from));
        }
        turn = 1 - turn;
      }
      b += static_cast<ptrdiff_t>(runs.count) * runs.steps * kTileRows * s.b_pitch;
    }
  }
  finisher.drain();
}

}  // namespace
}  // namespace gaitcrafter
