// One row of a table applied to one clip. fp32, in the order that table.h writes, without contraction, in baseline
// code: the bits do not depend on the instruction set.
#pragma once

#include <cstddef>

#include "core/team.h"
#include "sampler/table.h"

namespace gaitcrafter {

// n floats each, none overlapping another. Pointers that a table does not need are null.
struct StepBuffers {
  float* x = nullptr;            // in: x_t, out: x_(t-1)
  const float* out = nullptr;    // guided model output
  const float* noise = nullptr;  // standard normals of the row's stream; read if c_noise != 0
  float* history[2] = {};        // x0[-1], x0[-2]; the first SamplerTable::history of them
  float* scratch = nullptr;      // dynamic thresholding only
};

// Runs rows[row] in place and leaves this row's x0 in history[0] (the pointers rotate). Returns how many values of
// `out` were not finite; they are carried on as IEEE arithmetic has them. Allocates nothing.
size_t sampler_step(const SamplerTable& table, int row, StepBuffers& buffers, size_t n);

// The same bits by a team, whose leader calls. The quantile of dynamic thresholding is found by the leader alone.
size_t sampler_step(const SamplerTable& table, int row, StepBuffers& buffers, size_t n, Team& team);

// The factor s of dynamic thresholding: the `percentile` quantile of |x0| (linear interpolation, as torch.quantile), at
// least 1. Destroys `magnitudes` (n floats, n >= 1).
float dynamic_limit(float* magnitudes, size_t n, double percentile);

}  // namespace gaitcrafter
