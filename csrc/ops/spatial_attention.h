// Full attention over the sites of one frame (the middle of the network). A tile is a frame.
#pragma once

#include "ops/temporal_attention.h"

namespace gaitcrafter {

// out = in + attention(layer_norm(in)); out may be in.
struct SpatialAttention {
  Tensor in, out;
  AttentionWeights weights;
};

}  // namespace gaitcrafter
