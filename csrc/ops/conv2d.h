// Convolution over the pixels of every frame: 3x3 and the k x k stem at stride 1, 4x4 at stride 2.
#pragma once

#include "ops/packing.h"
#include "ops/tiling.h"

namespace gaitcrafter {

// out[f,y,x,:] = bias + sum W[:, :, ky, kx] in[f, y * stride + ky - padding, x * stride + kx - padding, :], zeros
// outside. A pending affine of `in` is applied on the way in. With out.statistics every tile fills its slots
// (norm_statistics.h). Weights: K = [channel block][ky][kx][channel]; if grid.winograd(), 16 packed matrices with K =
// channel (winograd.h).
//
// With `quantised` (op tables of precision int8 alone) activations and weights are multiplied as 8-bit integers
// (int8_product.h); `weight` is then int8, in groups of four, and `grid` one for operands of one byte.
struct Quantised {
  const float* inverse_step = nullptr;  // [C], of the input's channels
  const float* zero = nullptr;          // [C], whole numbers in 0..255
  const uint8_t* zero_bytes = nullptr;  // the same
  const float* scale = nullptr;         // [N], whole vectors
  const int32_t* start = nullptr;       // [N], whole vectors: minus the zero points' share of every sum
};

struct Conv2d {
  Tensor in, out;
  ConvGrid grid;
  Packed weight;
  const float* bias = nullptr;  // whole vectors
  const Quantised* quantised = nullptr;
};

}  // namespace gaitcrafter
