// Learned places added to the stem's output.
#pragma once

#include "ops/tensor.h"

namespace gaitcrafter {

// For the given frames, x[f, y, x, c] += frame[f, c] + spatial[c, y, x], in place.
void positional_embedding(const float* spatial, const float* frame, const Tensor& x, TileRange frames);

}  // namespace gaitcrafter
