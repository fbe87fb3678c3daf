// Runs a plan for one clip.
#pragma once

#include <cstddef>

#include "core/stopwatch.h"
#include "core/team.h"
#include "unet/plan.h"
#include "unet/unet.h"

namespace gaitcrafter {

struct ForwardInputs {
  const float* clip = nullptr;       // [channels][frames][height][width]
  const float* input_map = nullptr;  // [channels][height][width]; null: none
  const float* film_time = nullptr;  // plan.film_floats each
  const float* film_condition = nullptr;
  float* out = nullptr;  // like clip
};

// `ops` and `fp32` as for build_plan. On the leader of `team`; every member's scratch has plan.scratch_bytes, 64-byte
// aligned. Allocates nothing.
void run_plan(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs,
              const ForwardMemory& memory, Team& team, NodeTimes* times);

// One node of it, which reads what the nodes before it have left in memory.
void run_node(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs,
              const ForwardMemory& memory, Team& team, size_t node);

}  // namespace gaitcrafter
