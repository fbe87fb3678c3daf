// Attention along the frames of every site: norm, projections, rotary, products, output projection, residual in one op.
#pragma once

#include "ops/packing.h"
#include "ops/tensor.h"

namespace gaitcrafter {

// Weights shared by the full attentions.
struct AttentionWeights {
  int heads = 0, dim = 0;
  const void* qkv = nullptr;  // [heads][3][dim][C]; the norm's gamma in all, dim^-0.5 in q
  Packed out;                 // K = heads * dim
};

// out = in + attention(layer_norm(in)); out may be in.
struct TemporalAttention {
  Tensor in, out;
  AttentionWeights weights;
  const float* bias = nullptr;  // [heads][key][bias_pitch], queries side by side; null: no position bias
  ptrdiff_t bias_pitch = 0;     // frames rounded up to kWidestLanes
  const float* cos = nullptr;   // [rotary_dim / 2][rotary_pitch], repeated for every site of a tile; null: no rotary
  const float* sin = nullptr;
  ptrdiff_t rotary_pitch = 0;
  int rotary_dim = 0;
};

}  // namespace gaitcrafter
