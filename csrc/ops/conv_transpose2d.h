// Transposed convolution 4x4, stride 2, padding 1: the upsampling of the network.
#pragma once

#include "ops/packing.h"
#include "ops/tiling.h"

namespace gaitcrafter {

// Every output pixel sees 2x2 input pixels; the four phases (y odd, x odd) are four 2x2 convolutions, phase = 2 * (y &
// 1) + (x & 1). Output row 2y + p reads input rows y - 1 + p and y + p, which meet kernel rows 3 - p and 1 - p; columns
// alike. Weights of a phase: K = [channel block][row][column][channel].
struct ConvTranspose2d {
  Tensor in, out;
  ConvGrid grid;  // of a 3x3 convolution over the input
  Packed phase[4];
  const float* bias = nullptr;
};

}  // namespace gaitcrafter
