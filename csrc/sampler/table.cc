#include "sampler/table.h"

#include <algorithm>
#include <cmath>
#include <span>
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
    const std::string why = settings.kind == SamplerKind::kDdpm
                                ? "ddpm has no eta (its noise is fixed)"
                                : std::string(sampler_name(settings.kind)) + " is deterministic";
    throw Error(Status::kInvalidRequest, "eta is " + text(settings.eta) + " but " + why + "; set eta to 0 or use ddim");
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

// Order of a row of DPM-Solver++ that is not the last. The first rows have no earlier x0. Below 15 rows the last but
// one of the third-order solver is of second order, without which few-step runs become unstable (docs/samplers.md).
size_t dpmpp_order(SamplerKind kind, size_t row, size_t rows) {
  if (kind == SamplerKind::kDpmpp2m) return std::min<size_t>(2, row + 1);
  return std::min<size_t>(rows >= 15 || row + 2 < rows ? 3 : 2, row + 1);
}

// Lu et al. 2022 (DPM-Solver++), data prediction, multistep: algorithm 2 in midpoint form for two levels, the
// third-order solver for three. `past` are the levels of as many rows as this one has orders, its own last.
void set_dpmpp(ExactRow& row, std::span<const Level> past, Level next) {
  const Level now = past.back();
  const double h = next.lambda() - now.lambda(), shrink = std::expm1(-h);
  const double weight = -next.alpha() * shrink;
  row.c_x = next.sigma() / now.sigma();
  row.c_x0 = weight;
  if (past.size() == 1) return;
  const Level before = past[past.size() - 2];
  const double r0 = (now.lambda() - before.lambda()) / h;
  if (past.size() == 2) {
    row.c_x0 += weight * 0.5 / r0;
    row.c_prev1 = -weight * 0.5 / r0;
    return;
  }
  const double r1 = (before.lambda() - past[past.size() - 3].lambda()) / h;
  const double first = next.alpha() * (shrink / h + 1);                  // of D1, the first difference
  const double second = -next.alpha() * ((shrink + h) / (h * h) - 0.5);  // of D2
  // D1 = near + r0 / (r0 + r1) (near - far), D2 = (near - far) / (r0 + r1); near = (x0 - x0[-1]) / r0 and so on.
  const double near = first * (1 + r0 / (r0 + r1)) + second / (r0 + r1);
  const double far = -first * r0 / (r0 + r1) - second / (r0 + r1);
  row.c_x0 += near / r0;
  row.c_prev1 = -near / r0 + far / r1;
  row.c_prev2 = -far / r1;
}

// What UniPC's corrector adds to the x that its predictor gave.
struct Correction {
  double x0 = 0, prev1 = 0, prev2 = 0;
};

// Zhao et al. 2023 (UniPC), algorithm 1 with B(h) = expm1(-h). Predictor and corrector differ in multiples of known x0
// only, so the corrected x is the predicted x plus such multiples, and no earlier x is needed.
Correction unipc_correction(std::span<const Level> past) {
  if (past.size() < 2) return {};
  const Level now = past.back(), before = past[past.size() - 2];
  const double h = now.lambda() - before.lambda(), shrink = std::expm1(-h);
  const double scale = -now.alpha() * shrink;
  if (past.size() == 2) return {0.5 * scale, -0.5 * scale, 0};
  const double r = (past[past.size() - 3].lambda() - before.lambda()) / h;
  const double phi2 = shrink / -h - 1, phi3 = phi2 / -h - 0.5;
  const double b1 = phi2 / shrink, b2 = 2 * phi3 / shrink;
  // [[1, 1], [r, 1]] (older, newer) = (b1, b2): the weights of (x0[-2] - x0[-1]) / r and of x0 - x0[-1].
  const double older = (b1 - b2) / (1 - r), newer = b1 - older;
  const double change = scale * (older - 0.5) / r;  // the predictor had 0.5 for the older, 0 for the newer
  return {scale * newer, -change - scale * newer, change};
}

// Corrector of the step that led here, then the predictor of the next, in one sum; both of second order where two
// earlier x0 are known. `past` are up to three levels, the row's own last.
void set_unipc(ExactRow& row, std::span<const Level> past, Level next) {
  const Correction add = unipc_correction(past);
  const Level now = past.back();
  const double h = next.lambda() - now.lambda();
  const double keep = next.sigma() / now.sigma(), weight = -next.alpha() * std::expm1(-h);
  row.c_x = keep;
  row.c_x0 = keep * add.x0 + weight;
  row.c_prev1 = keep * add.prev1;
  row.c_prev2 = keep * add.prev2;
  if (past.size() < 2) return;
  const double step = weight * 0.5 / ((past[past.size() - 2].lambda() - now.lambda()) / h);
  row.c_x0 -= step;
  row.c_prev1 += step;
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

const char* sampler_name(SamplerKind kind) {
  switch (kind) {
    case SamplerKind::kDdpm:
      return "ddpm";
    case SamplerKind::kDdim:
      return "ddim";
    case SamplerKind::kDpmpp2m:
      return "dpmpp_2m";
    case SamplerKind::kDpmpp3m:
      return "dpmpp_3m";
    default:
      return "unipc";
  }
}

SamplerTable compile_table(const SamplerSettings& settings, const Diffusion& diffusion) {
  check(settings);
  const std::vector<int32_t> t = spaced_timesteps(settings.kind, settings.spacing, settings.steps, diffusion.timesteps);
  const std::vector<double> bars = alphas_cumprod(diffusion);
  std::vector<Level> levels;
  levels.reserve(t.size());
  for (const int32_t timestep : t) levels.push_back({bars[static_cast<size_t>(timestep)]});
  // The levels of up to `most` rows, row i's own last.
  const auto past = [&](size_t i, size_t most) {
    const size_t count = std::min(most, i + 1);
    return std::span<const Level>(levels).subspan(i + 1 - count, count);
  };

  SamplerTable table;
  table.thresholding = settings.thresholding;
  table.dynamic_percentile = settings.dynamic_percentile;
  table.guidance = settings.guidance;
  for (size_t i = 0; i < t.size(); ++i) {
    const bool last = i + 1 == t.size();
    const Level now = levels[i], next = last ? Level{1.0} : levels[i + 1];
    ExactRow row;
    row.t = t[i];
    row.stream = 1 + static_cast<uint32_t>(t[i]);
    set_x0(row, diffusion.prediction, now);
    if (settings.kind == SamplerKind::kDdpm) {
      set_ddpm(row, now, next);
    } else if (settings.kind == SamplerKind::kDdim) {
      set_ddim(row, now, next, settings.eta, settings.rederive_eps);
    } else if (last) {
      row.c_x0 = 1;  // no noise is left: x becomes x0
    } else if (settings.kind == SamplerKind::kUniPc) {
      set_unipc(row, past(i, 3), next);
    } else {
      set_dpmpp(row, past(i, dpmpp_order(settings.kind, i, t.size())), next);
    }
    if (row.c_prev1 != 0) table.history = std::max(table.history, 1);
    if (row.c_prev2 != 0) table.history = 2;
    table.needs_noise |= row.c_noise != 0;
    table.exact.push_back(row);
    table.rows.push_back(rounded(row));
  }
  return table;
}

}  // namespace gaitcrafter
