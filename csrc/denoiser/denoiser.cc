#include "denoiser/denoiser.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace gaitcrafter {

namespace {

constexpr size_t kAlign = 64;

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

Denoiser::Denoiser(std::shared_ptr<const UNet> unet, const Guidance& guidance, std::shared_ptr<const UNet> exact)
    : unet_(std::move(unet)), exact_(std::move(exact)), guidance_(guidance) {
  const ModelConfig& c = unet_->config();
  clip_floats_ = size_t(c.unet.channels) * size_t(c.clip.frames) * size_t(c.clip.height) * size_t(c.clip.width);
  if (guidance.scale != 1.0 && !c.conditioning.guidance_trained) {
    throw Error(Status::kInvalidRequest,
                "guidance is " + std::to_string(guidance.scale) +
                    ", but this model was not trained for guidance (its null condition is untrained); use guidance 1");
  }
}

size_t Denoiser::state_floats() const { return unet_->condition_floats() * (uses_cond() && uses_null() ? 2 : 1); }

size_t Denoiser::network_bytes() const {
  return aligned(std::max(unet_->workspace_bytes(), exact_ == nullptr ? 0 : exact_->workspace_bytes()));
}

// Layout of a workspace: the network's own, then one buffer for the null lane's output or a cond vector.
size_t Denoiser::workspace_bytes() const {
  const size_t extra = std::max(clip_floats_, static_cast<size_t>(unet_->config().conditioning.cond_dim));
  return network_bytes() + aligned(extra * sizeof(float));
}

float* Denoiser::scratch(std::byte* workspace) const { return reinterpret_cast<float*>(workspace + network_bytes()); }

double Denoiser::flops() const { return unet_->flops() * (uses_cond() && uses_null() ? 2 : 1); }

void Denoiser::check(const ClipConditions& conditions) const {
  const auto& mask = guidance_.null_axes;
  const bool all = std::all_of(mask.begin(), mask.end(), [](bool b) { return b; });
  if (uses_null() && !all && conditions.cond != nullptr) {
    throw Error(Status::kInvalidRequest,
                "guidance along some axes only needs labels; a raw cond vector cannot be split by axis");
  }
}

void Denoiser::prepare(const ClipConditions& conditions, float* state, std::byte* workspace) const {
  float* vector = scratch(workspace);
  if (uses_cond()) {
    prepare_lane(conditions, state, vector);
    state += unet_->condition_floats();
  }
  if (!uses_null()) return;
  ClipConditions null = conditions;
  null.cond = nullptr;
  for (int a = 0; a < kAxes; ++a) {
    if (guidance_.null_axes[a]) null.axes[a] = {};
  }
  prepare_lane(null, state, vector);
}

void Denoiser::prepare_lane(const ClipConditions& conditions, float* state, float* vector) const {
  const Conditioning& c = unet_->config().conditioning;
  const bool labels = std::any_of(conditions.axes.begin(), conditions.axes.end(), [](auto a) { return !a.empty(); });
  if (c.cond_dim == 0 || conditions.cond != nullptr || !labels) {
    unet_->prepare_conditions(conditions, state);
    return;
  }
  std::fill_n(vector, c.cond_dim, 0.0f);
  for (int a = 0; a < kAxes; ++a) {
    for (const LabelWeight& w : conditions.axes[a]) {
      vector[c.cond_columns[a][static_cast<size_t>(w.index)]] += w.weight;
    }
  }
  ClipConditions as_vector;
  as_vector.cond = vector;
  unet_->prepare_conditions(as_vector, state);
}

void Denoiser::eval(const float* x, const TimeTables& time, int step, const float* state, float* out,
                    std::byte* workspace, bool exact) const {
  const UNet& network = exact && exact_ != nullptr ? *exact_ : *unet_;
  network.forward(x, time, step, state, out, workspace);
  if (!uses_cond() || !uses_null()) return;
  float* null = scratch(workspace);
  network.forward(x, time, step, state + network.condition_floats(), null, workspace);
  const float scale = static_cast<float>(guidance_.scale);
  for (size_t i = 0; i < clip_floats_; ++i) out[i] = null[i] + (out[i] - null[i]) * scale;
}

}  // namespace gaitcrafter
