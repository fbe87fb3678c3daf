// The product of a halo image with packed weights: one panel of output channels and one block of input channels at a
// time.
#pragma once

#include "ops/halo_image.h"
#include "ops/product.h"

namespace gaitcrafter {
namespace {

constexpr int kMaxWindow = 7;  // rows of the largest convolution window

// A window of rows x columns of the image seen from every pixel of the tile.
struct WindowProduct {
  int rows, columns;                    // of the window
  int row_shift = 0, column_shift = 0;  // its corner, from the pixel's place in the image
  Packed weight;
};

// Walks a tile's pixels in order: where each lies in the image.
class PixelCursor {
 public:
  GC_INLINE PixelCursor(const ConvGrid& g, const ConvWindow& w, int channels)
      : width_(g.width),
        rows_(w.rows),
        step_(g.stride * channels),
        row_step_(static_cast<ptrdiff_t>(g.stride) * g.image_width * channels),
        frame_step_(image_frame(g, w.rows)) {}

  GC_INLINE ptrdiff_t place() const {
    return frame_ * frame_step_ + row_ * row_step_ + static_cast<ptrdiff_t>(column_) * step_;
  }
  GC_INLINE int frame() const { return frame_; }
  GC_INLINE int row() const { return row_; }
  GC_INLINE int column() const { return column_; }
  GC_INLINE void advance() {
    if (++column_ < width_) return;
    column_ = 0;
    if (++row_ < rows_) return;
    row_ = 0;
    ++frame_;
  }

 private:
  int width_, rows_, column_ = 0, row_ = 0, frame_ = 0;
  ptrdiff_t step_, row_step_, frame_step_;
};

// `finish(column)` is how the sums of a panel begin and end. Sums over channel blocks wait in `partial`, pixels x one
// panel.
template <class Math, class FinishAt>
void window_product(const ConvGrid& g, const ConvWindow& w, const WindowProduct& args, const typename Math::A* image,
                    typename Math::Partial* partial, FinishAt finish, const WindowOutput& out) {
  using A = typename Math::A;
  using Partial = typename Math::Partial;
  const int pixels = w.pixels(g.width);
  for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
    ProductOf<Math> p = packed_product_of<Math>(args.weight, panel);
    const int column = first_column(args.weight.n, panel), columns = p.columns, width = p.vectors * kLanes;
    p.finish = finish(column);
    for (int block = 0; block < g.blocks; ++block) {
      const int channels = block_channels(g, block);
      ptrdiff_t segment[kMaxWindow];
      for (int r = 0; r < args.rows; ++r)
        segment[r] = (static_cast<ptrdiff_t>(r + args.row_shift) * g.image_width + args.column_shift) * channels;
      p.segment = segment;
      p.segments = args.rows;
      p.k = args.columns * channels;
      const A* base = image + block * image_block(g, w);
      const bool first = block == 0;
      PixelCursor cursor(g, w, channels);
      if (block + 1 < g.blocks) {
        p.columns = width;
        panel_product<Layout::kRows, Partial, Partial>(p, pixels, [&](int i) {
          Partial* c = partial + static_cast<ptrdiff_t>(i) * width;
          const Row<Partial, Partial, A> row{base + cursor.place(), c, first ? nullptr : c};
          cursor.advance();
          return row;
        });
      } else {
        p.columns = columns;
        panel_product<Layout::kRows, Elem, Partial>(p, pixels, [&](int i) {
          const Partial* sum = first ? nullptr : partial + static_cast<ptrdiff_t>(i) * width;
          Elem* c = out.first + cursor.frame() * out.frame + cursor.row() * out.row + cursor.column() * out.column;
          const Row<Elem, Partial, A> row{base + cursor.place(), c + column, sum};
          cursor.advance();
          return row;
        });
      }
      p.b += static_cast<ptrdiff_t>(ceil_div(p.k, Math::kGroup)) * p.segments * p.b_pitch;
      p.finish.begun();
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
