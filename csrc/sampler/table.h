// A sampler compiled to rows: all that depends on the schedule alone is worked out here, in double, before a run.
// Equations, spacings and their sources: docs/samplers.md.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace gaitcrafter {

// One step at timestep t:
//   x0_raw = a_x * x + a_out * out
//   x0     = threshold(x0_raw)
//   x_next = c_x*x + c_x0*x0 + c_prev1*x0[-1] + c_prev2*x0[-2] + c_raw*x0_raw + c_noise*z
// Terms from c_prev1 on are left out where their coefficient is 0, so their buffers may be absent.
template <class T>
struct Row {
  int32_t t = 0;
  uint32_t stream = 0;  // noise stream of z
  T a_x = 0, a_out = 0;
  T c_x = 0, c_x0 = 0, c_prev1 = 0, c_prev2 = 0, c_raw = 0, c_noise = 0;
};

using ExactRow = Row<double>;
using SamplerRow = Row<float>;

struct SamplerTable {
  std::vector<ExactRow> exact;   // as computed
  std::vector<SamplerRow> rows;  // the same, rounded once; what a step uses
  Thresholding thresholding = Thresholding::kClip;
  double dynamic_percentile = 0.9;
  double guidance = 1.0;
  int history = 0;           // how many earlier x0 a step reads, 0..2
  bool needs_noise = false;  // any row with c_noise != 0

  int size() const { return static_cast<int>(rows.size()); }
  std::vector<int32_t> timesteps() const;
};

// The name that configurations and requests have for it.
const char* sampler_name(SamplerKind kind);

// Cumulative products of 1 - beta, one per timestep, in double (docs/samplers.md, "Schedules").
std::vector<double> alphas_cumprod(const Diffusion& diffusion);

// Timesteps in the order that they run, the same as diffusers' schedulers of that kind (steps_offset 0).
// Throws kInvalidRequest if the spacing repeats a timestep or starts at timestep 0.
std::vector<int32_t> spaced_timesteps(SamplerKind kind, Spacing spacing, int steps, int train_timesteps);

// Throws kInvalidRequest for settings outside their ranges.
SamplerTable compile_table(const SamplerSettings& settings, const Diffusion& diffusion);

}  // namespace gaitcrafter
