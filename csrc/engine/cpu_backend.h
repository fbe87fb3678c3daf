// The CPU as a sampler backend: one lane, which is one clip at a time in memory taken once.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>

#include "core/team.h"
#include "denoiser/denoiser.h"
#include "engine/profile.h"
#include "engine/shared_workspace.h"
#include "sampler/backend.h"
#include "sampler/clip_sampler.h"

namespace gaitcrafter {

// A network call runs in fp32 if the sampler multiplies its output by more than this (SamplerRow::a_out), whatever the
// precision: near t = T an eps-model's error is multiplied by up to 64,166, and there its figure is formed. With 20
// steps that is the first one. bfloat16 is right to about 1/400 of eps, which 32 times would be a twelfth of x_0.
inline constexpr float kExactAmplification = 32.0f;

class CpuBackend final : public Backend {
 public:
  // Of one lane, besides the scratch of its team.
  static size_t lane_bytes(const Denoiser& denoiser, const SamplerTable& table);

  // What lanes share or are lent; all outlive them.
  struct Parts {
    const Denoiser& denoiser;
    const SamplerTable& table;
    const TimeTables& time;
    SharedWorkspace& shared;    // of denoiser.shared_bytes()
    RunTimes* times = nullptr;  // null: nobody wants them
  };

  // `scratch` has denoiser.scratch_bytes() for the leader of `team`, which is the thread that calls the rest. Throws
  // std::bad_alloc; nothing is allocated afterwards.
  CpuBackend(const Parts& parts, Team& team, std::byte* scratch);

  // `table` must be the constructor's; one clip.
  void prepare(const SamplerTable& table, const BatchView& batch) override;
  void eval(int row) override;
  void step(int row) override;
  size_t finish(float threshold, uint8_t* packed) override;

  // x_T after prepare, x_0 after the last step; clip_floats values.
  float* x() { return sampler_->x(); }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };

  Parts parts_;
  Team& team_;
  std::byte* scratch_;
  std::unique_ptr<std::byte, Free> memory_;
  std::optional<ClipSampler> sampler_;
  float *state_ = nullptr, *out_ = nullptr;
  std::byte* own_ = nullptr;
  size_t not_finite_ = 0;
};

}  // namespace gaitcrafter
