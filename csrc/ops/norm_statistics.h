// GroupNorm in two steps: every tile of a convolution leaves the mean and the sum of squared deviations of its pixels
// per channel; here they are combined, in slot order and in double, into the affine that a reader applies.
#pragma once

#include "model/config.h"
#include "ops/tiling.h"

namespace gaitcrafter {

// Floats of Tensor::statistics: [frame][band][2][channels], the mean, then the sum of squared deviations from it.
inline size_t statistics_floats(const ConvGrid& grid, int channels) {
  return static_cast<size_t>(grid.statistics_slots()) * 2 * channels;
}

// One FiLM term of a block: scale [C], then shift [C]; null is none. Terms are added.
struct Film {
  const float* time = nullptr;
  const float* condition = nullptr;
};

struct GroupNormAffine {
  const float* statistics = nullptr;
  ConvGrid grid;  // of the convolution that wrote them
  int channels = 0, groups = 1;
  NormScope scope = NormScope::kClip;
  const float* weight = nullptr;
  const float* bias = nullptr;
  Film film;
};

// Writes scale and shift, [C] each (kClip) or [frames][C] each (kFrame):
// norm(x) * (film scale + 1) + film shift = x * scale + shift, with eps 1e-5 and the biased variance. `sets` takes some
// of group_norm_sets(): a group of the clip's, or, frame after frame, of a frame's.
void group_norm_affine(const GroupNormAffine& args, TileRange sets, float* scale, float* shift);
inline int group_norm_sets(const GroupNormAffine& args) {
  return args.groups * (args.scope == NormScope::kFrame ? args.grid.frames : 1);
}

// The RMS norm's: gamma * sqrt(C) * (film scale + 1) and the film shift, [C] each.
void rms_norm_affine(const float* gamma, int channels, Film film, float* scale, float* shift);

}  // namespace gaitcrafter
