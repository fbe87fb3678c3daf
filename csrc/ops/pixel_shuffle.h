// Between a planar clip [channels][frame][row][column] and patches as channels: copies.
//
//   pixel_unshuffle: the given frames of out[f, y, x, (c * p + i) * p + j] = clip[c, f, y p + i, x p + j]
//                    + map[c, y p + i, x p + j]; map null is zero
//   pixel_shuffle:   the inverse, without a map; its input is fp32 in every op table
#pragma once

#include "ops/tensor.h"
