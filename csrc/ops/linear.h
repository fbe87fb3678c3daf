// y = x W^T + b for every pixel: the 1x1 convolutions and the FiLM tables.
#pragma once

#include "ops/packing.h"
#include "ops/tensor.h"

namespace gaitcrafter {

struct Linear {
  Tensor in, out;
  Packed weight;
  const float* bias = nullptr;  // whole vectors; null is zero
  // Added to the result, what is pending of it applied (by tiles alone); null is zero.
  const Tensor* residual = nullptr;
};

}  // namespace gaitcrafter
