// Attention along the frames of every site: norm, projections, rotary, products, output projection, residual in one op.
#pragma once

#include "ops/packing.h"
#include "ops/tensor.h"

namespace gaitcrafter {

// cos and sin of the angles of a token's frame, [dim / 2][pitch]; null: no rotary embedding. For tiles of the matrix
// unit also [frame][dim of a head, in tiles], a lane per row; sin of even rows negative, rows past `dim` not turned.
struct RotaryTables {
  const float *cos = nullptr, *sin = nullptr;
  const float *cos_lanes = nullptr, *sin_lanes = nullptr;
  ptrdiff_t pitch = 0;
  int dim = 0;
};

// Weights shared by the full attentions.
struct AttentionWeights {
  int heads = 0, dim = 0;
  const void* qkv = nullptr;  // as arrange_qkv has it (unet/weights.h)
  Packed out;                 // K = heads * dim
};

// out = in + attention(layer_norm(in)); out may be in.
struct TemporalAttention {
  Tensor in, out;
  AttentionWeights weights;
  const float* bias = nullptr;  // [heads][key][bias_pitch], queries side by side; null: no position bias
  ptrdiff_t bias_pitch = 0;     // frames rounded up to kWidestLanes
  RotaryTables rotary;          // repeated for every site of a tile
};

}  // namespace gaitcrafter
