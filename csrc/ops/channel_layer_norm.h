// LayerNorm over the channels of every pixel, eps 1e-5.
#pragma once

#include "ops/linear.h"

namespace gaitcrafter {

// out = (in - mean) / sqrt(var + eps) * gamma. The attentions fold gamma into their weights and use the inner loop
// alone.
struct ChannelLayerNorm {
  Tensor in, out;
  const float* gamma = nullptr;
};

}  // namespace gaitcrafter
