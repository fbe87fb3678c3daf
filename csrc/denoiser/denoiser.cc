#include "denoiser/denoiser.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace gaitcrafter {

namespace {

constexpr size_t kAlign = 64;
constexpr size_t kPart = 8192;  // values that one thread combines at a time

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Labels of a model with cond_dim become its vector here.
void prepare_lane(const UNet& unet, const ClipConditions& conditions, float* state, float* vector) {
  const Conditioning& c = unet.config().conditioning;
  const bool labels = std::any_of(conditions.axes.begin(), conditions.axes.end(), [](auto a) { return !a.empty(); });
  if (c.cond_dim == 0 || conditions.cond != nullptr || !labels) {
    unet.prepare_conditions(conditions, state);
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
  unet.prepare_conditions(as_vector, state);
}

}  // namespace

void check_guidance(const ModelConfig& config, const Guidance& guidance) {
  if (guidance.scale == 1.0 || config.conditioning.guidance_trained) return;
  throw Error(Status::kInvalidRequest,
              "guidance is " + std::to_string(guidance.scale) +
                  ", but this model was not trained for guidance (its null condition is untrained); use guidance 1");
}

void check_split(const Guidance& guidance, const ClipConditions& conditions) {
  const auto& mask = guidance.null_axes;
  const bool all = std::all_of(mask.begin(), mask.end(), [](bool b) { return b; });
  if (guidance.scale == 1.0 || all || conditions.cond == nullptr) return;
  throw Error(Status::kInvalidRequest,
              "guidance along some axes only needs labels; a raw cond vector cannot be split by axis");
}

void prepare_lanes(const UNet& unet, const Guidance& guidance, const ClipConditions& conditions, float* state,
                   float* vector) {
  if (uses_cond(guidance)) {
    prepare_lane(unet, conditions, state, vector);
    state += unet.condition_floats();
  }
  if (!uses_null(guidance)) return;
  ClipConditions null = conditions;
  null.cond = nullptr;
  for (int a = 0; a < kAxes; ++a) {
    if (guidance.null_axes[a]) null.axes[a] = {};
  }
  prepare_lane(unet, null, state, vector);
}

Denoiser::Denoiser(std::shared_ptr<const UNet> unet, const Guidance& guidance, std::shared_ptr<const UNet> exact)
    : unet_(std::move(unet)), exact_(std::move(exact)), guidance_(guidance) {
  const ModelConfig& c = unet_->config();
  clip_floats_ = size_t(c.unet.channels) * size_t(c.clip.frames) * size_t(c.clip.height) * size_t(c.clip.width);
  placement_ = unet_->place();
  if (exact_ != nullptr) exact_placement_ = exact_->place(aligned(placement_.bytes));
  check_guidance(c, guidance);
}

size_t Denoiser::state_floats() const {
  return unet_->condition_floats() * (uses_cond(guidance_) && uses_null(guidance_) ? 2 : 1);
}

// Layout: the activations, then one buffer for the null lane's output or a cond vector.
size_t Denoiser::own_bytes() const {
  const size_t output = uses_cond(guidance_) && uses_null(guidance_) ? clip_floats_ : 0;
  const size_t extra = std::max(output, static_cast<size_t>(unet_->config().conditioning.cond_dim));
  return aligned(placement_.bytes) + aligned(extra * sizeof(float));
}

float* Denoiser::extra(std::byte* own) const { return reinterpret_cast<float*>(own + aligned(placement_.bytes)); }

size_t Denoiser::scratch_bytes() const {
  return aligned(std::max(unet_->scratch_bytes(), exact_ == nullptr ? 0 : exact_->scratch_bytes()));
}

double Denoiser::flops() const { return unet_->flops() * (uses_cond(guidance_) && uses_null(guidance_) ? 2 : 1); }

void Denoiser::prepare(const ClipConditions& conditions, float* state, std::byte* own) const {
  prepare_lanes(*unet_, guidance_, conditions, state, extra(own));
}

void Denoiser::eval(const float* x, const TimeTables& time, int step, const float* state, float* out,
                    const DenoiserMemory& memory, Team& team, bool exact, DenoiserTimes* times) const {
  const bool in_fp32 = exact && exact_ != nullptr;
  const UNet& network = in_fp32 ? *exact_ : *unet_;
  const ForwardMemory activations{in_fp32 ? &exact_placement_ : &placement_, memory.own, memory.shared};
  // The weights of the other one need not be resident meanwhile.
  if (exact_ != nullptr) (in_fp32 ? *unet_ : *exact_).rest();
  NodeTimes* nodes = times == nullptr ? nullptr : in_fp32 ? &times->exact : &times->network;
  network.forward(x, time, step, state, out, activations, team, nodes);
  if (!uses_cond(guidance_) || !uses_null(guidance_)) return;
  float* null = extra(memory.own);
  network.forward(x, time, step, state + network.condition_floats(), null, activations, team, nodes);
  const Stopwatch watch(times == nullptr ? nullptr : &times->guidance);
  const float scale = static_cast<float>(guidance_.scale);
  team.run(static_cast<int>((clip_floats_ + kPart - 1) / kPart), [&](int begin, int end, std::byte*) {
    const size_t last = std::min(static_cast<size_t>(end) * kPart, clip_floats_);
    for (size_t i = static_cast<size_t>(begin) * kPart; i < last; ++i) out[i] = null[i] + (out[i] - null[i]) * scale;
  });
}

}  // namespace gaitcrafter
