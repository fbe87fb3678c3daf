// Normalisation, FiLM and SiLU after the convolutions of a ResNet block, with the block's residual.
#pragma once

#include "ops/linear.h"
#include "ops/tensor.h"

namespace gaitcrafter {

// out = silu(in * scale + shift) + residual with in.pending as the affine. GroupNorm is two steps: statistics from the
// convolution's tiles become an affine (norm_statistics.h), and this, or the next convolution, applies it.
struct NormSilu {
  Tensor in, out;
  const Tensor* residual = nullptr;
};

// out = silu(in * scale + shift) + W x + b, the block's input x through its shortcut.
struct ShortcutNormSilu {
  Tensor in, out, x;
  Packed weight;
  const float* bias = nullptr;  // whole vectors
};

// out = silu(in / max(||in||, 1e-12) * scale + shift) + residual, the norm over the channels of each pixel; in.pending
// holds gamma * sqrt(C) * (film scale + 1) and the film shift.
struct RmsNormSilu {
  Tensor in, out;
  const Tensor* residual = nullptr;
};

}  // namespace gaitcrafter
