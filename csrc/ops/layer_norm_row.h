// LayerNorm of single pixels, and of tiles of pixels laid out [channel][token] for the attentions.
#pragma once

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

constexpr float kLayerNormEps = 1e-5f;

// y = (x - mean) / sqrt(var + eps); y may be x.
template <class Out>
GC_INLINE void layer_norm_row(const Elem* x, int channels, Out* y) {
  const int whole = channels / kLanes * kLanes;
  Vec sum = {};
  for (int c = 0; c < whole; c += kLanes) sum += load(x + c);
  float total = sum_lanes(sum);
  for (int c = whole; c < channels; ++c) total += to_float(x[c]);
  const float mean = total / static_cast<float>(channels);
  Vec squares = {};
  for (int c = 0; c < whole; c += kLanes) {
    const Vec d = load(x + c) - splat(mean);
    squares += d * d;
  }
  float variance = sum_lanes(squares);
  for (int c = whole; c < channels; ++c) variance += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
  const float rstd = 1.0f / __builtin_sqrtf(variance / static_cast<float>(channels) + kLayerNormEps);
  for (int c = 0; c < whole; c += kLanes) store(y + c, (load(x + c) - splat(mean)) * splat(rstd));
  for (int c = whole; c < channels; ++c) assign(y[c], (to_float(x[c]) - mean) * rstd);
}

#if defined(GC_AMX)

// The sum of every vector's lanes: vector i's in lane i.
GC_INLINE Vec sum_each(const Vec (&v)[16]) {
  __m512 a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 x = (__m512)v[2 * i], y = (__m512)v[2 * i + 1];
    a[i] = _mm512_unpacklo_ps(x, y) + _mm512_unpackhi_ps(x, y);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  }
  for (int i = 0; i < 2; ++i)
    c[i] = _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd);
  return (Vec)(_mm512_shuffle_f32x4(c[0], c[1], 0x88) + _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// layer_norm_row for up to 16 pixels together, so that sums over channels run without a chain across lanes; whole
// vectors of channels. The variance is that of the square: what cancels is no more than bfloat16 tells apart.
GC_INLINE void layer_norm_16_rows(const Elem* const (&x)[16], int rows, int channels, Elem* y, ptrdiff_t pitch) {
  Vec sum[16], square[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    sum[i] = load(x[i]);
    square[i] = sum[i] * sum[i];
    for (int c = kLanes; c < channels; c += kLanes) {
      const Vec v = load(x[i] + c);
      sum[i] += v;
      square[i] += v * v;
    }
  }
  const Vec count = splat(1.0f / static_cast<float>(channels)), mean = sum_each(sum) * count;
  const Vec variance = maximum(sum_each(square) * count - mean * mean, Vec{});
  const Vec rstd = splat(1.0f) / (Vec)_mm512_sqrt_ps((__m512)(variance + splat(kLayerNormEps)));
  alignas(64) float scale[16], shift[16];
  store(scale, rstd);
  store(shift, -mean * rstd);
  for (int i = 0; i < rows; ++i, y += pitch) {
    const Vec a = splat(scale[i]), b = splat(shift[i]);
    for (int c = 0; c < channels; c += kLanes) store(y + c, load(x[i] + c) * a + b);
  }
}

// Rows of y from the pixels that `next()` gives in turn.
template <class Next>
GC_INLINE void layer_norm_rows(const Tensor& in, int rows, Next next, Elem* y, ptrdiff_t pitch) {
  if (in.channels % kLanes != 0) {
    for (int row = 0; row < rows; ++row) layer_norm_row(in.pixel<Elem>(next()), in.channels, y + row * pitch);
    return;
  }
  for (int row = 0; row < rows; row += 16) {
    const int count = min_of(16, rows - row);
    const Elem* x[16];
    for (int i = 0; i < 16; ++i) x[i] = i < count ? in.pixel<Elem>(next()) : x[count - 1];
    layer_norm_16_rows(x, count, in.channels, y + row * pitch, pitch);
  }
}

#endif

// Where the tokens of a few sequences lie in a tensor: the pixel of token t of sequence s.
struct TokenPlaces {
  ptrdiff_t first, sequence_step, token_step;

  GC_INLINE ptrdiff_t pixel(int s, int t) const { return first + s * sequence_step + t * token_step; }
};

// Pixels of a few neighbouring sites in order of site, then frame; `next` gives the index and steps on.
class SiteCursor {
 public:
  GC_INLINE SiteCursor(ptrdiff_t first_site, int frames, ptrdiff_t sites)
      : pixel_(first_site), sites_(sites), frames_(frames) {}
  GC_INLINE SiteCursor(TokenPlaces places, int length) : SiteCursor(places.first, length, places.token_step) {}

  GC_INLINE ptrdiff_t next() {
    const ptrdiff_t now = pixel_;
    pixel_ += sites_;
    if (++frame_ == frames_) {
      frame_ = 0;
      ++site_;
      pixel_ -= frames_ * sites_ - 1;
    }
    return now;
  }
  GC_INLINE int site() const { return site_; }  // of the pixel that comes next, from 0

 private:
  ptrdiff_t pixel_, sites_;
  int frames_, frame_ = 0, site_ = 0;
};

// Tokens [0, tokens) as columns of y, [channel / kPair][pitch][kPair]; lanes from `tokens` to `pitch` are zero.
// `cursor.next()` gives the tokens' pixels in turn; `row` holds one pixel. Channels are a multiple of kPair.
template <class Cursor>
GC_INLINE void layer_norm_columns(int tokens, const Tensor& in, Cursor cursor, Elem* row, Elem* y, ptrdiff_t pitch) {
  const int groups = in.channels / kPair;
  for (int token = 0; token < tokens; ++token) {
    layer_norm_row(in.pixel<Elem>(cursor.next()), in.channels, row);
    for (int c = 0; c < groups; ++c)
      __builtin_memcpy(y + (c * pitch + token) * kPair, row + c * kPair, kPair * sizeof(Elem));
  }
  for (int c = 0; c < groups; ++c)
    __builtin_memset(y + (c * pitch + tokens) * kPair, 0, static_cast<size_t>(pitch - tokens) * kPair * sizeof(Elem));
}

}  // namespace
}  // namespace gaitcrafter
