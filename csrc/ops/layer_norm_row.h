// LayerNorm of single pixels, and of tiles of pixels laid out [channel][token] for the attentions.
#pragma once

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

constexpr float kLayerNormEps = 1e-5f;

// y = (x - mean) / sqrt(var + eps); y may be x.
GC_INLINE void layer_norm_row(const float* x, int channels, float* y) {
  const int whole = channels / kLanes * kLanes;
  Vec sum = {};
  for (int c = 0; c < whole; c += kLanes) sum += load(x + c);
  float total = sum_lanes(sum);
  for (int c = whole; c < channels; ++c) total += x[c];
  const float mean = total / static_cast<float>(channels);
  Vec squares = {};
  for (int c = 0; c < whole; c += kLanes) {
    const Vec d = load(x + c) - splat(mean);
    squares += d * d;
  }
  float variance = sum_lanes(squares);
  for (int c = whole; c < channels; ++c) variance += (x[c] - mean) * (x[c] - mean);
  const float rstd = 1.0f / __builtin_sqrtf(variance / static_cast<float>(channels) + kLayerNormEps);
  for (int c = 0; c < whole; c += kLanes) store(y + c, (load(x + c) - splat(mean)) * splat(rstd));
  for (int c = whole; c < channels; ++c) y[c] = (x[c] - mean) * rstd;
}

// Tokens [0, tokens) as columns of y: y[c * pitch + token]. Lanes from `tokens` to `pitch` are zero.
// `address(token)` is a token's pixel; `rows` holds kLanes rows of channels rounded up to kLanes.
template <class AddressOf>
GC_INLINE void layer_norm_columns(int tokens, int channels, AddressOf address, float* rows, float* y, ptrdiff_t pitch) {
  for (int token = 0; token < tokens; ++token) {
    layer_norm_row(address(token), channels, rows);
    for (int c = 0; c < channels; ++c) y[c * pitch + token] = rows[c];
  }
  for (int c = 0; c < channels; ++c)
    for (ptrdiff_t i = tokens; i < pitch; ++i) y[c * pitch + i] = 0.0f;
}

}  // namespace
}  // namespace gaitcrafter
