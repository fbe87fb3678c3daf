// Between a planar clip [channels][frame][row][column] and patches as channels: copies, so one version serves every
// set.
#pragma once

#include "ops/tensor.h"

namespace gaitcrafter {

// The given frames of out[f, y, x, (c * p + i) * p + j] = clip[c, f, y p + i, x p + j] + map[c, y p + i, x p + j]; map
// null is zero.
void pixel_unshuffle(const float* clip, const float* map, int patch, const Tensor& out, TileRange frames);

// The inverse, without a map; `in` is fp32.
void pixel_shuffle(const Tensor& in, int patch, float* clip, TileRange frames);

}  // namespace gaitcrafter
