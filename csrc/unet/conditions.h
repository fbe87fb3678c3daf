// What a run's timesteps and a clip's conditions come to, before any network call (docs/architecture.md, "Conditions").
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "unet/plan.h"
#include "unet/unet.h"

namespace gaitcrafter {

// True for the tensors that this file reads: a plan keeps them beside its nodes' weights.
bool read_by_runs(std::string_view tensor);

// film(silu(cat(time_mlp(t), cond))) is linear in silu, so it splits into a time term, with the bias, and a condition
// term. [step][plan.film_floats].
class FilmTimeTables : public TimeTables {
 public:
  FilmTimeTables(const ModelPackage& package, const Plan& plan, std::span<const int32_t> timesteps);

  int steps() const { return steps_; }
  const float* step(int index) const { return terms_.data() + static_cast<size_t>(index) * film_floats_; }

 private:
  int steps_;
  size_t film_floats_;
  std::vector<float> terms_;
};

// Floats of the input map in front of a condition state: channels x height x width if an axis is wired so, else 0.
size_t input_map_floats(const ModelConfig& config);

// Writes the input map, then the condition terms of all blocks. Throws kInvalidRequest for a label that is not there.
void write_conditions(const ModelPackage& package, const Plan& plan, const ClipConditions& conditions, float* state);

}  // namespace gaitcrafter
