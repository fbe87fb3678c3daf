#include "sampler/step.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace gaitcrafter {
namespace {

constexpr size_t kTile = 512;         // elements whose running sum stays in the first cache
constexpr size_t kPart = 16 * kTile;  // elements that one thread takes at a time

// x0 = clamp(x0_raw, -bound, bound) / divisor.
struct Threshold {
  float bound, divisor;
};

// acc += c * term, one rounding for the product and one for the sum.
void add_term(float* __restrict acc, float c, const float* __restrict term, size_t n) {
  for (size_t i = 0; i < n; ++i) acc[i] = acc[i] + c * term[i];
}

// Finite minus itself is 0, infinity and NaN minus themselves are NaN.
size_t count_non_finite(const float* values, size_t n) {
  uint32_t count = 0;
  for (size_t i = 0; i < n; ++i) count += (values[i] - values[i] == 0.0f) ? 0u : 1u;
  return count;
}

Threshold threshold_of(const SamplerTable& table, const SamplerRow& row, const StepBuffers& b, size_t n) {
  if (table.thresholding == Thresholding::kNone) return {std::numeric_limits<float>::infinity(), 1.0f};
  if (table.thresholding == Thresholding::kClip) return {1.0f, 1.0f};
  for (size_t i = 0; i < n; ++i) b.scratch[i] = row.a_x * b.x[i] + row.a_out * b.out[i];
  const float s = dynamic_limit(b.scratch, n, table.dynamic_percentile);
  return {s, s};
}

}  // namespace

float dynamic_limit(float* magnitudes, size_t n, double percentile) {
  // The bits of a non-negative float order like the float, and give NaN (which `<` cannot sort) a place at the end.
  for (size_t i = 0; i < n; ++i) magnitudes[i] = std::fabs(magnitudes[i]);
  const auto below = [](float a, float b) { return __builtin_bit_cast(uint32_t, a) < __builtin_bit_cast(uint32_t, b); };
  const double rank = percentile * static_cast<double>(n - 1);
  const size_t lower = static_cast<size_t>(rank);
  std::nth_element(magnitudes, magnitudes + lower, magnitudes + n, below);
  const float a = magnitudes[lower];
  float quantile = a;
  if (lower + 1 < n) {
    const float b = *std::min_element(magnitudes + lower + 1, magnitudes + n, below);
    quantile = a + static_cast<float>(rank - static_cast<double>(lower)) * (b - a);
  }
  return quantile < 1.0f ? 1.0f : quantile;
}

namespace {

// Elements [begin, end) of a step. Returns how many values of `out` were not finite.
size_t step_elements(const SamplerTable& table, const SamplerRow& row, const Threshold& limit, const StepBuffers& b,
                     size_t begin, size_t end) {
  // This row's x0 takes the place of the oldest one, element by element after that one was read.
  float* const oldest = table.history > 0 ? b.history[table.history - 1] : nullptr;

  alignas(64) float raw[kTile], x0[kTile], sum[kTile];
  size_t non_finite = 0;
  for (size_t at = begin; at < end; at += kTile) {
    const size_t count = std::min(kTile, end - at);
    float* const x = b.x + at;
    const float* const out = b.out + at;
    non_finite += count_non_finite(out, count);
    for (size_t i = 0; i < count; ++i) raw[i] = row.a_x * x[i] + row.a_out * out[i];
    for (size_t i = 0; i < count; ++i) {
      const float low = raw[i] < -limit.bound ? -limit.bound : raw[i];
      x0[i] = (low > limit.bound ? limit.bound : low) / limit.divisor;
    }
    for (size_t i = 0; i < count; ++i) sum[i] = row.c_x * x[i] + row.c_x0 * x0[i];
    if (row.c_prev1 != 0) add_term(sum, row.c_prev1, b.history[0] + at, count);
    if (row.c_prev2 != 0) add_term(sum, row.c_prev2, b.history[1] + at, count);
    if (row.c_raw != 0) add_term(sum, row.c_raw, raw, count);
    if (row.c_noise != 0) add_term(sum, row.c_noise, b.noise + at, count);
    if (oldest != nullptr) std::memcpy(oldest + at, x0, count * sizeof(float));
    std::memcpy(x, sum, count * sizeof(float));
  }
  return non_finite;
}

}  // namespace

size_t sampler_step(const SamplerTable& table, int index, StepBuffers& b, size_t n) {
  const SamplerRow& row = table.rows[static_cast<size_t>(index)];
  const size_t non_finite = step_elements(table, row, threshold_of(table, row, b, n), b, 0, n);
  if (table.history == 2) std::swap(b.history[0], b.history[1]);
  return non_finite;
}

size_t sampler_step(const SamplerTable& table, int index, StepBuffers& b, size_t n, Team& team) {
  const SamplerRow& row = table.rows[static_cast<size_t>(index)];
  const Threshold limit = threshold_of(table, row, b, n);
  std::atomic<size_t> non_finite{0};
  team.run(static_cast<int>((n + kPart - 1) / kPart), [&](int begin, int end, std::byte*) {
    const size_t first = static_cast<size_t>(begin) * kPart, last = std::min(static_cast<size_t>(end) * kPart, n);
    non_finite.fetch_add(step_elements(table, row, limit, b, first, last), std::memory_order_relaxed);
  });
  if (table.history == 2) std::swap(b.history[0], b.history[1]);
  return non_finite.load();
}

}  // namespace gaitcrafter
