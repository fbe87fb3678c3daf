// U-Net plus conditions and guidance: a noisy clip to the guided model output.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "unet/unet.h"

namespace gaitcrafter {

struct Guidance {
  double scale = 1.0;
  // Axes that are null in the lane that guidance moves away from.
  std::array<bool, kAxes> null_axes = {true, true, true, true};
};

// Throws kInvalidRequest if the scale is not 1 and the model was not trained for guidance.
void check_guidance(const ModelConfig& config, const Guidance& guidance);

// Throws kInvalidRequest if some but not all axes are to be null and the clip has a raw vector, which cannot be split.
void check_split(const Guidance& guidance, const ClipConditions& conditions);

// The lanes of a call: the conditioned one unless the scale is 0, the null one unless it is 1.
inline bool uses_cond(const Guidance& guidance) { return guidance.scale != 0.0; }
inline bool uses_null(const Guidance& guidance) { return guidance.scale != 1.0; }

// What checked conditions of one clip come to, unet.condition_floats() floats for each lane. `vector` has room for
// cond_dim floats.
void prepare_lanes(const UNet& unet, const Guidance& guidance, const ClipConditions& conditions, float* state,
                   float* vector);

// Memory of one clip's calls, 64-byte aligned.
struct DenoiserMemory {
  std::byte* own = nullptr;     // own_bytes()
  std::byte* shared = nullptr;  // shared_bytes(), for exact calls only; clips may take turns with it
};

// Times of the calls, where somebody wants them.
struct DenoiserTimes {
  NodeTimes network, exact;  // one entry per node of either
  PartTime guidance;
};

// Immutable and shared by threads; what a clip needs lies in `state` and DenoiserMemory, which the caller owns.
class Denoiser {
 public:
  // `exact` is the same network in fp32, for the calls that ask for it; it takes the same time tables and states. Such
  // calls are few and take twice the memory, so that what they need beyond own_bytes() is apart.
  // Throws what check_guidance throws.
  Denoiser(std::shared_ptr<const UNet> unet, const Guidance& guidance, std::shared_ptr<const UNet> exact = nullptr);

  size_t clip_floats() const { return clip_floats_; }
  size_t state_floats() const;  // of one clip, both lanes
  size_t own_bytes() const;
  size_t shared_bytes() const { return exact_placement_.shared_bytes(); }
  size_t scratch_bytes() const;  // of every thread of a team
  double flops() const;          // of one eval
  const UNet& unet() const { return *unet_; }

  void check(const ClipConditions& conditions) const { check_split(guidance_, conditions); }

  // Checked conditions of one clip to `state`. Labels of a model with cond_dim become its vector here.
  void prepare(const ClipConditions& conditions, float* state, std::byte* own) const;

  // out = null + (cond - null) * scale, in fp32 and in that order; one network call if scale is 0 or 1. By `team`,
  // whose leader calls. `exact` asks for the network in fp32, where there is one.
  void eval(const float* x, const TimeTables& time, int step, const float* state, float* out,
            const DenoiserMemory& memory, Team& team, bool exact = false, DenoiserTimes* times = nullptr) const;

 private:
  float* extra(std::byte* own) const;

  std::shared_ptr<const UNet> unet_, exact_;
  Guidance guidance_;
  size_t clip_floats_ = 0;
  Placement placement_, exact_placement_;
};

}  // namespace gaitcrafter
