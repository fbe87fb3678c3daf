// Three-tap convolution along the frames, circular, with its LayerNorm and residual.
#pragma once

#include "ops/packing.h"
#include "ops/tensor.h"

namespace gaitcrafter {

// out = in + bias + sum_k W_k layer_norm(in[(f + k - 1) mod F]); out may be in. K = [tap][channel], gamma folded in.
struct TemporalConv {
  Tensor in, out;
  Packed weight;
  const float* bias = nullptr;
};

}  // namespace gaitcrafter
