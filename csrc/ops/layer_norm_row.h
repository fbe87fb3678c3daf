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
