#include "sampler/table.h"

#include <cmath>
#include <string>

#include "core/error.h"

namespace gaitcrafter {
namespace {

std::string text(double value) {
  std::string digits = std::to_string(value);
  while (digits.back() == '0' && digits[digits.size() - 2] != '.') digits.pop_back();
  return digits;
}

void check(const SamplerSettings& settings) {
  if (!(settings.eta >= 0 && settings.eta <= 1)) {
    throw Error(Status::kInvalidRequest,
                "eta is " + text(settings.eta) + "; it must lie in 0 (deterministic) to 1 (as much noise as ddpm)");
  }
  if (settings.kind != SamplerKind::kDdim && settings.eta != 0) {
    throw Error(
        Status::kInvalidRequest,
        settings.kind == SamplerKind::kDdpm
            ? "eta is " + text(settings.eta) + " but ddpm has no eta (its noise is fixed); set eta to 0 or use ddim"
            : "eta is " + text(settings.eta) + " but dpmpp_2m is deterministic; set eta to 0 or use ddim");
  }
  if (settings.thresholding == Thresholding::kDynamic &&
      !(settings.dynamic_percentile > 0 && settings.dynamic_percentile < 1)) {
    throw Error(Status::kInvalidRequest, "dynamic_percentile is " + text(settings.dynamic_percentile) +
                                             "; it must lie between 0 and 1, for example 0.9");
  }
  if (!(settings.guidance >= 0 && settings.guidance <= 100)) {
    throw Error(Status::kInvalidRequest,
                "guidance is " + text(settings.guidance) + "; it must lie in 0 to 100 (1 = no guidance)");
  }
}

// Signal and noise level at one point of the trajectory. `bar` is alphas_cumprod, 1 after the last row.
struct Level {
  double bar;
  double alpha() const { return std::sqrt(bar); }
  double sigma() const { return std::sqrt(1 - bar); }
  double lambda() const { return 0.5 * std::log(bar / (1 - bar)); }  // half the log signal-to-noise ratio
};

void set_x0(ExactRow& row, Prediction prediction, Level now) {
  if (prediction == Prediction::kX0) {
    row.a_x = 0, row.a_out = 1;
  } else if (prediction == Prediction::kEps) {
    row.a_x = 1 / now.alpha(), row.a_out = -now.sigma() / now.alpha();
  } else {
    row.a_x = now.alpha(), row.a_out = -now.sigma();
  }
}

// Ho et al. 2020, equations 6 and 7, between any two levels (Nichol and Dhariwal 2021, section 4, respacing).
void set_ddpm(ExactRow& row, Level now, Level next) {
  const double alpha = now.bar / next.bar, beta = 1 - alpha;
  row.c_x = std::sqrt(alpha) * (1 - next.bar) / (1 - now.bar);
  row.c_x0 = std::sqrt(next.bar) * beta / (1 - now.bar);
  row.c_noise = std::sqrt(beta * (1 - next.bar) / (1 - now.bar));
}

// Song et al. 2021, equations 12 and 16. With x = alpha x0 + sigma eps, eps is (x - alpha x0) / sigma: of the
// thresholded x0 if eps is re-derived, else of x0_raw, which is then the network's own eps.
void set_ddim(ExactRow& row, Level now, Level next, double eta, bool rederive_eps) {
  const double spread = eta * std::sqrt((1 - next.bar) / (1 - now.bar)) * std::sqrt(1 - now.bar / next.bar);
  const double direction = std::sqrt(std::fmax(0, 1 - next.bar - spread * spread));
  const double x_share = direction / now.sigma();
  row.c_x = x_share;
  (rederive_eps ? row.c_x0 : row.c_raw) = -x_share * now.alpha();
  row.c_x0 += next.alpha();
  row.c_noise = spread;
}

// Lu et al. 2022 (DPM-Solver++), algorithm 2 in data prediction, midpoint form. `before` is null on the first row,
// which is of first order, as is the last row: its next level has no noise.
void set_dpmpp_2m(ExactRow& row, Level now, Level next, const Level* before) {
  if (next.bar == 1) {
    row.c_x0 = 1;
    return;
  }
  const double h = next.lambda() - now.lambda();
  const double weight = -next.alpha() * std::expm1(-h);
  row.c_x = next.sigma() / now.sigma();
  row.c_x0 = weight;
  if (before != nullptr) {
    const double ratio = (now.lambda() - before->lambda()) / h;
    row.c_x0 += weight * 0.5 / ratio;
    row.c_prev1 = -weight * 0.5 / ratio;
  }
}

SamplerRow rounded(const ExactRow& row) {
  const auto f = [](double value) { return static_cast<float>(value); };
  return {row.t,       row.stream,     f(row.a_x),     f(row.a_out), f(row.c_x),
          f(row.c_x0), f(row.c_prev1), f(row.c_prev2), f(row.c_raw), f(row.c_noise)};
}

}  // namespace

std::vector<int32_t> SamplerTable::timesteps() const {
  std::vector<int32_t> values;
  values.reserve(rows.size());
  for (const SamplerRow& row : rows) values.push_back(row.t);
  return values;
}

SamplerTable compile_table(const SamplerSettings& settings, const Diffusion& diffusion) {
  check(settings);
  const std::vector<int32_t> t = spaced_timesteps(settings.kind, settings.spacing, settings.steps, diffusion.timesteps);
  const std::vector<double> bars = alphas_cumprod(diffusion);

  SamplerTable table;
  table.thresholding = settings.thresholding;
  table.dynamic_percentile = settings.dynamic_percentile;
  table.guidance = settings.guidance;
  for (size_t i = 0; i < t.size(); ++i) {
    const Level now{bars[t[i]]}, next{i + 1 < t.size() ? bars[t[i + 1]] : 1.0};
    const Level before{i > 0 ? bars[t[i - 1]] : 1.0};
    ExactRow row;
    row.t = t[i];
    row.stream = 1 + static_cast<uint32_t>(t[i]);
    set_x0(row, diffusion.prediction, now);
    if (settings.kind == SamplerKind::kDdpm) {
      set_ddpm(row, now, next);
    } else if (settings.kind == SamplerKind::kDdim) {
      set_ddim(row, now, next, settings.eta, settings.rederive_eps);
    } else {
      set_dpmpp_2m(row, now, next, i > 0 ? &before : nullptr);
    }
    if (row.c_prev1 != 0) table.history = 1;
    table.needs_noise |= row.c_noise != 0;
    table.exact.push_back(row);
    table.rows.push_back(rounded(row));
  }
  return table;
}

}  // namespace gaitcrafter
