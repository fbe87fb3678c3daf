// The timestep's way into the network, in double: it runs once per timestep of a run, not per clip.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gaitcrafter {

// [sin(t f_i), cos(t f_i)], f_i = exp(-i ln(10000) / (dim / 2 - 1)). Exponent, frequency and angle are rounded to fp32
// as in the base network (kernels/time_embedding.py).
std::vector<double> time_embedding(int32_t timestep, int dim);

struct TimeMlpWeights {
  int dim = 0;
  const float *weight1 = nullptr, *bias1 = nullptr;  // [4 dim][dim]
  const float *weight2 = nullptr, *bias2 = nullptr;  // [4 dim][4 dim]
};

// linear, GELU (erf), linear of the embedding: 4 * dim values.
std::vector<double> time_mlp(const TimeMlpWeights& weights, int32_t timestep);

double silu(double x);

// y = W x + b, weight [out][in].
std::vector<double> dense(const float* weight, const float* bias, size_t out, std::span<const double> x);

}  // namespace gaitcrafter
