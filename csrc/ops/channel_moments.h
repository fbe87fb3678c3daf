// Statistics of a convolution tile while it is still in the cache (norm_statistics.h).
#pragma once

#include "ops/halo_image.h"

namespace gaitcrafter {
namespace {

#if defined(GC_BF16)

// Mean and sum of squared deviations of up to kLanes channels over `pixels` pixels. Sums are taken about the first
// pixel: what cancels then is no more than the spread of values that bfloat16 can tell apart.
template <bool kWhole>
GC_INLINE void column_moments(const Elem* x, ptrdiff_t pitch, int pixels, int channels, float* mean, float* squares) {
  const auto at = [&](int i) { return kWhole ? load(x + i * pitch) : load_first(x + i * pitch, channels); };
  const Vec pivot = at(0);
  Vec sum[4] = {}, square[4] = {};
  const auto add = [&](int i, int to) {
    const Vec d = at(i) - pivot;
    sum[to] += d;
    square[to] += d * d;
  };
  int i = 0;
  for (; i + 4 <= pixels; i += 4)
    for (int j = 0; j < 4; ++j) add(i + j, j);
  for (; i < pixels; ++i) add(i, 0);
  const Vec total = sum[0] + sum[1] + (sum[2] + sum[3]), m = total * splat(1.0f / static_cast<float>(pixels));
  store_first(mean, pivot + m, channels);
  store_first(squares, maximum(square[0] + square[1] + (square[2] + square[3]) - total * m, Vec{}), channels);
}

#else

// Mean and sum of squared deviations of up to kLanes channels over `pixels` pixels: two passes, four sums in flight.
template <bool kWhole>
GC_INLINE void column_moments(const Elem* x, ptrdiff_t pitch, int pixels, int channels, float* mean, float* squares) {
  const auto at = [&](int i) { return kWhole ? load(x + i * pitch) : load_first(x + i * pitch, channels); };
  Vec sum[4] = {};
  int i = 0;
  for (; i + 4 <= pixels; i += 4)
    for (int j = 0; j < 4; ++j) sum[j] += at(i + j);
  for (; i < pixels; ++i) sum[0] += at(i);
  const Vec m = (sum[0] + sum[1] + (sum[2] + sum[3])) * splat(1.0f / static_cast<float>(pixels));
  Vec square[4] = {};
  for (i = 0; i + 4 <= pixels; i += 4)
    for (int j = 0; j < 4; ++j) {
      const Vec d = at(i + j) - m;
      square[j] += d * d;
    }
  for (; i < pixels; ++i) {
    const Vec d = at(i) - m;
    square[0] += d * d;
  }
  store_first(mean, m, channels);
  store_first(squares, square[0] + square[1] + (square[2] + square[3]), channels);
}

#endif

void tile_moments(const Tensor& out, const ConvGrid& g, const ConvWindow& w) {
  const int band = w.row / g.rows;
  for (int f = w.frame; f < w.frame + w.frames; ++f) {
    const Elem* x = out.pixel<Elem>((static_cast<ptrdiff_t>(f) * g.height + w.row) * g.width);
    float* slot = out.statistics + (static_cast<ptrdiff_t>(f) * g.bands + band) * 2 * out.channels;
    const int pixels = w.rows * g.width;
    int c = 0;
    for (; c + kLanes <= out.channels; c += kLanes)
      column_moments<true>(x + c, out.pitch, pixels, kLanes, slot + c, slot + out.channels + c);
    if (c < out.channels)
      column_moments<false>(x + c, out.pitch, pixels, out.channels - c, slot + c, slot + out.channels + c);
  }
}

}  // namespace
}  // namespace gaitcrafter
