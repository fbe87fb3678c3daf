#include "ops/time_embedding.h"

#include <cmath>
#include <numbers>

namespace gaitcrafter {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

std::vector<double> dense(const float* weight, const float* bias, size_t out, std::span<const double> x) {
  std::vector<double> y(out);
  for (size_t i = 0; i < out; ++i) {
    double sum = bias == nullptr ? 0.0 : bias[i];
    for (size_t k = 0; k < x.size(); ++k) sum += weight[i * x.size() + k] * x[k];
    y[i] = sum;
  }
  return y;
}

std::vector<double> time_embedding(int32_t timestep, int dim) {
  const size_t half = static_cast<size_t>(dim) / 2;
  const float step = static_cast<float>(-std::log(10000.0) / static_cast<double>(half - 1));
  std::vector<double> e(static_cast<size_t>(dim));
  for (size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(i) * step;
    const float frequency = static_cast<float>(std::exp(static_cast<double>(exponent)));
    const float angle = static_cast<float>(timestep) * frequency;
    e[i] = std::sin(static_cast<double>(angle));
    e[half + i] = std::cos(static_cast<double>(angle));
  }
  return e;
}

std::vector<double> time_mlp(const TimeMlpWeights& w, int32_t timestep) {
  const size_t wide = 4 * static_cast<size_t>(w.dim);
  std::vector<double> h = dense(w.weight1, w.bias1, wide, time_embedding(timestep, w.dim));
  for (double& v : h) v = 0.5 * v * (1.0 + std::erf(v / std::numbers::sqrt2));
  return dense(w.weight2, w.bias2, wide, h);
}

}  // namespace gaitcrafter
