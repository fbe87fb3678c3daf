// Linear attention over the sites of one frame. A tile of the grid is a frame.
#pragma once

#include "ops/packing.h"
#include "ops/tensor.h"

namespace gaitcrafter {

// out = in + to_out(linear_attention(layer_norm(in))) + bias; out may be in.
//
// Softmax of k over the sites and the D x D context are summed over token tiles, one slot per tile, combined in order.
// The context is then multiplied into the output projection, [heads * dim] x C per frame, so that a token costs
// one product less.
struct SpatialLinearAttention {
  Tensor in, out;
  int heads = 0, dim = 0;
  const void* q = nullptr;  // [heads * dim][C], gamma folded in
  // Per head packed K = C, N = 2 * dim_padded: k, then v from column dim_padded; gamma folded in.
  const void* kv = nullptr;
  Packed out_weight;  // K = heads * dim
  const float* bias = nullptr;
};

}  // namespace gaitcrafter
