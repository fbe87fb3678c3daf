// Noise schedules and timestep spacings.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "core/error.h"
#include "sampler/table.h"

namespace gaitcrafter {
namespace {

const char* name_of(Spacing spacing) {
  switch (spacing) {
    case Spacing::kLeading:
      return "leading";
    case Spacing::kTrailing:
      return "trailing";
    default:
      return "linspace";
  }
}

double beta(const Diffusion& diffusion, int t) {
  const double timesteps = diffusion.timesteps;
  if (diffusion.schedule == Schedule::kCosine) {
    // Nichol and Dhariwal 2021, equation 17, with the base network's cap of 0.9999.
    constexpr double kOffset = 0.008, kMaxBeta = 0.9999;
    const auto bar = [&](double at) {
      const double c = std::cos(((at / timesteps) + kOffset) / (1 + kOffset) * std::numbers::pi * 0.5);
      return c * c;
    };
    return std::clamp(1 - bar(t + 1) / bar(t), 0.0, kMaxBeta);
  }
  // Ho et al. 2020: 1e-4 to 0.02 at 1000 timesteps, scaled so that fewer timesteps destroy as much.
  const double scale = 1000 / timesteps;
  const double first = scale * 1e-4, last = scale * 0.02;
  return diffusion.timesteps == 1 ? first : first + (last - first) * t / (timesteps - 1);
}

// round() of numpy: halves to even, the default rounding mode of nearbyint.
int32_t round_even(double value) { return static_cast<int32_t>(std::nearbyint(value)); }

// numpy.linspace(0, last, count), rounded.
std::vector<int32_t> rounded_linspace(int last, int count) {
  std::vector<int32_t> values(count);
  const double step = count > 1 ? last / static_cast<double>(count - 1) : 0.0;
  for (int i = 0; i < count; ++i) values[i] = round_even(i * step);
  if (count > 1) values.back() = last;
  return values;
}

}  // namespace

std::vector<double> alphas_cumprod(const Diffusion& diffusion) {
  if (diffusion.timesteps < 1) {
    throw Error(Status::kInvalidRequest,
                "timesteps is " + std::to_string(diffusion.timesteps) + "; a schedule needs at least 1");
  }
  std::vector<double> bars(diffusion.timesteps);
  double product = 1;
  for (int t = 0; t < diffusion.timesteps; ++t) {
    const double b = beta(diffusion, t);
    if (!(b > 0 && b < 1)) {
      throw Error(Status::kInvalidRequest, "the linear schedule at " + std::to_string(diffusion.timesteps) +
                                               " timesteps has a beta outside 0..1; it needs more than 20 timesteps");
    }
    product *= 1 - b;
    bars[t] = product;
  }
  return bars;
}

std::vector<int32_t> spaced_timesteps(SamplerKind kind, Spacing spacing, int steps, int train_timesteps) {
  if (steps < 1 || steps > train_timesteps) {
    throw Error(Status::kInvalidRequest, "steps is " + std::to_string(steps) + "; this model allows 1 to " +
                                             std::to_string(train_timesteps) + ", its training timesteps");
  }
  // diffusers' multistep solver spreads steps + 1 points and leaves out the last one, timestep 0.
  const bool drop_zero = kind != SamplerKind::kDdpm && kind != SamplerKind::kDdim;
  const int points = drop_zero ? steps + 1 : steps;
  std::vector<int32_t> t(points);
  if (spacing == Spacing::kLinspace) {
    t = rounded_linspace(train_timesteps - 1, points);
  } else if (spacing == Spacing::kLeading) {
    const int32_t ratio = train_timesteps / points;
    for (int i = 0; i < points; ++i) t[i] = i * ratio;
  } else {
    // numpy.arange(T, 0, -ratio): start + i * (second - start). It can run one element over by rounding; diffusers then
    // has a timestep -1 at the end, which is left out here.
    const double start = train_timesteps, ratio = start / steps;
    const double delta = (start - ratio) - start;
    t.resize(steps);
    for (int i = 0; i < steps; ++i) t[i] = round_even(start + i * delta) - 1;
    std::reverse(t.begin(), t.end());
  }
  std::reverse(t.begin(), t.end());
  if (spacing != Spacing::kTrailing && drop_zero) t.pop_back();

  const bool repeats = std::adjacent_find(t.begin(), t.end()) != t.end();
  if (repeats || (t.front() == 0 && train_timesteps > 1)) {
    throw Error(Status::kInvalidRequest,
                std::string(name_of(spacing)) + " spacing of " + sampler_name(kind) + " with " + std::to_string(steps) +
                    " of " + std::to_string(train_timesteps) + " steps " +
                    (repeats ? "visits a timestep twice" : "would begin at timestep 0, where no noise is expected") +
                    "; use trailing spacing or another number of steps");
  }
  return t;
}

}  // namespace gaitcrafter
