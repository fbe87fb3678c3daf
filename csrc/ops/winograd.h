// 3x3 convolution by Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): 16 products for 4 outputs, not 36.
//
//   V = B^T d B for every 4x4 patch d of the image, U = G g G^T once per weight, Y = A^T [sum_c U_c V_c] A for 2x2
//   outputs.
//
// The sums are 16 matrix products [patches x C] [C x N], run by the inner loop of all ops. The transforms of
// activations have coefficients 0 and +-1 alone, so fp32 loses nothing to speak of against the direct sum
// (tests/native/test_ops.py holds both to one bound); those of F(4x4, 3x3) go up to 5 and lose more.
#pragma once

#include "ops/conv2d.h"
#include "ops/halo_image.h"
#include "ops/product.h"

namespace gaitcrafter {
namespace {

// Walks the patches of a tile in order of frame, row pair and column pair.
struct PatchCursor {
  int frame, row, column;  // of the patch's first output

  GC_INLINE void advance(int rows, int columns) {
    if ((column += 2) < columns) return;
    column = 0;
    if ((row += 2) < rows) return;
    row = 0;
    ++frame;
  }
};

// x = B^T x of one line of four.
GC_INLINE void transform_line(Vec& x0, Vec& x1, Vec& x2, Vec& x3) {
  const Vec a = x0 - x2, b = x1 + x2, c = x2 - x1, d = x1 - x3;
  x0 = a;
  x1 = b;
  x2 = c;
  x3 = d;
}

// One patch and one vector of channels (`count` of them) into the 16 matrices.
template <bool kWhole>
GC_INLINE void transform_vector(const float* image, ptrdiff_t pixel, ptrdiff_t row, int count, float* v,
                                ptrdiff_t stride) {
  Vec d[4][4];
#pragma GCC unroll 4
  for (int y = 0; y < 4; ++y)
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
      const float* p = image + y * row + x * pixel;
      d[y][x] = kWhole ? load(p) : load_first(p, count);
    }
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x) transform_line(d[0][x], d[1][x], d[2][x], d[3][x]);
#pragma GCC unroll 4
  for (int y = 0; y < 4; ++y) transform_line(d[y][0], d[y][1], d[y][2], d[y][3]);
#pragma GCC unroll 4
  for (int y = 0; y < 4; ++y)
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
      float* p = v + (4 * y + x) * stride;
      if (kWhole)
        store(p, d[y][x]);
      else
        store_first(p, d[y][x], count);
    }
}

GC_INLINE void transform_patch(const ConvGrid& g, const float* image, float* v, ptrdiff_t stride) {
  const ptrdiff_t pixel = g.channels, row = g.image_width * pixel;
  int c = 0;
  for (; c + kLanes <= g.channels; c += kLanes) transform_vector<true>(image + c, pixel, row, kLanes, v + c, stride);
  if (c < g.channels) transform_vector<false>(image + c, pixel, row, g.channels - c, v + c, stride);
}

// y = A^T of one line of four.
GC_INLINE void combine_line(Vec x0, Vec x1, Vec x2, Vec x3, Vec& y0, Vec& y1) {
  y0 = x0 + x1 + x2;
  y1 = x1 - x2 - x3;
}

// The 2x2 outputs of one patch, one vector of channels; only the first `rows` x `columns` of them are in the frame.
GC_INLINE void combine_vector(const float* m, ptrdiff_t stride, Vec bias, int rows, int columns, int count, float* y,
                              ptrdiff_t pixel, ptrdiff_t row) {
  Vec t[2][4], out[2][2];
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x)
    combine_line(load(m + x * stride), load(m + (4 + x) * stride), load(m + (8 + x) * stride),
                 load(m + (12 + x) * stride), t[0][x], t[1][x]);
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) combine_line(t[r][0], t[r][1], t[r][2], t[r][3], out[r][0], out[r][1]);
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      if (r >= rows || c >= columns) continue;
      float* p = y + r * row + c * pixel;
      if (count >= kLanes)
        store(p, out[r][c] + bias);
      else
        store_first(p, out[r][c] + bias, count);
    }
}

// `count` patches from `cursor` on, which is left behind them. v and m hold the 16 matrices before and after the
// product.
GC_INLINE void winograd_batch(const Conv2d& args, const ConvWindow& w, PatchCursor& cursor, int count,
                              const float* image, float* v, float* m) {
  const ConvGrid& g = args.grid;
  const ptrdiff_t v_stride = winograd_stride(g.batch, g.channels), frame_floats = image_frame(g, w.rows);
  const PatchCursor begin = cursor;
  for (int i = 0; i < count; ++i, cursor.advance(w.rows, g.width)) {
    const ptrdiff_t at = static_cast<ptrdiff_t>(cursor.row) * g.image_width + cursor.column;
    transform_patch(g, image + cursor.frame * frame_floats + at * g.channels,
                    v + static_cast<ptrdiff_t>(i) * g.channels, v_stride);
  }
  const ptrdiff_t matrix = static_cast<ptrdiff_t>(args.weight.k) * round_up(args.weight.n, kLanes);
  for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
    Product product = packed_product(args.weight, nullptr, panel);
    const int columns = product.columns, width = product.vectors * kLanes, column = first_column(args.weight.n, panel);
    const ptrdiff_t m_stride = winograd_stride(g.batch, width);
    product.columns = width;
    for (int k = 0; k < 16; ++k, product.b += matrix)
      panel_product<Layout::kRows, float, float>(product, count, [&](int i) {
        return Row<float, float>{v + k * v_stride + static_cast<ptrdiff_t>(i) * g.channels,
                                 m + k * m_stride + static_cast<ptrdiff_t>(i) * width, nullptr};
      });
    PatchCursor p = begin;
    for (int i = 0; i < count; ++i, p.advance(w.rows, g.width)) {
      const ptrdiff_t row = static_cast<ptrdiff_t>(w.frame + p.frame) * g.height + w.row + p.row;
      float* y = args.out.pixel<float>(row * g.width + p.column) + column;
      for (int n = 0; n < width; n += kLanes)
        combine_vector(m + static_cast<ptrdiff_t>(i) * width + n, m_stride, load(args.bias + column + n),
                       w.rows - p.row, g.width - p.column, columns - n, y + n, args.out.pitch,
                       args.out.pitch * g.width);
    }
  }
}

// `v` is scratch for both sets of matrices.
GC_INLINE void winograd_product(const Conv2d& args, const ConvWindow& w, const float* image, float* v) {
  const ConvGrid& g = args.grid;
  const int patches = w.frames * ceil_div(w.rows, 2) * ceil_div(g.width, 2);
  float* m = v + 16 * winograd_stride(g.batch, g.channels);
  PatchCursor cursor{0, 0, 0};
  for (int first = 0; first < patches; first += g.batch)
    winograd_batch(args, w, cursor, min_of(g.batch, patches - first), image, v, m);
}

}  // namespace
}  // namespace gaitcrafter
