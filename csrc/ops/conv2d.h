// Convolution over the pixels of every frame: 3x3 and the k x k stem at stride 1, 4x4 at stride 2.
#pragma once

#include "ops/packing.h"
#include "ops/tiling.h"

namespace gaitcrafter {

// out[f,y,x,:] = bias + sum W[:, :, ky, kx] in[f, y * stride + ky - padding, x * stride + kx - padding, :], zeros
// outside. A pending affine of `in` is applied on the way in. With out.statistics every tile fills its slots
// (norm_statistics.h). Weights: K = [channel block][ky][kx][channel]; if grid.winograd(), 16 packed matrices with K =
// channel (winograd.h).
struct Conv2d {
  Tensor in, out;
  ConvGrid grid;
  Packed weight;
  const float* bias = nullptr;  // whole vectors
};

}  // namespace gaitcrafter
