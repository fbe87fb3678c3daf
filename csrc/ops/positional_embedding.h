// Learned places added to the stem's output.
#pragma once

#include "ops/tensor.h"

namespace gaitcrafter {

// For the given frames, x[f, y, x, c] += frame[f, c] + spatial[y, x, c], in place. Rows of both tables are whole
// vectors.
struct PositionalEmbedding {
  Tensor x;
  const float* spatial = nullptr;
  const float* frame = nullptr;
};

}  // namespace gaitcrafter
