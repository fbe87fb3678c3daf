#include "sampler/clip_sampler.h"

#include <algorithm>

#include "noise/normal.h"

namespace gaitcrafter {
namespace {

// Floats of one buffer: rounded up so that the next one begins on a cache line.
size_t padded(size_t n) { return (n + 15) / 16 * 16; }

constexpr size_t kDrawn = 8192;  // normals that one thread draws at a time

void draw(uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n, Team& team) {
  team.run(static_cast<int>((n + kDrawn - 1) / kDrawn), [&](int begin, int end, std::byte*) {
    const size_t first = static_cast<size_t>(begin) * kDrawn, last = std::min(static_cast<size_t>(end) * kDrawn, n);
    fill_normal_from(seed, clip, stream, first, out + first, last - first);
  });
}

}  // namespace

size_t ClipSampler::workspace_bytes(const SamplerTable& table, size_t n) {
  size_t buffers = 1 + static_cast<size_t>(table.history);
  if (table.needs_noise) ++buffers;
  if (table.thresholding == Thresholding::kDynamic) ++buffers;
  return buffers * padded(n) * sizeof(float);
}

ClipSampler::ClipSampler(const SamplerTable& table, size_t n, std::byte* workspace) : table_(table), n_(n) {
  float* next = reinterpret_cast<float*>(workspace);
  const auto take = [&] {
    float* const taken = next;
    next += padded(n);
    return taken;
  };
  buffers_.x = take();
  for (int i = 0; i < table.history; ++i) buffers_.history[i] = take();
  if (table.needs_noise) noise_ = take();
  if (table.thresholding == Thresholding::kDynamic) buffers_.scratch = take();
  buffers_.noise = noise_;
}

void ClipSampler::start(uint64_t seed, uint64_t clip) {
  seed_ = seed;
  clip_ = clip;
  fill_normal(seed, clip, kInitialNoiseStream, buffers_.x, n_);
}

void ClipSampler::start(uint64_t seed, uint64_t clip, Team& team) {
  seed_ = seed;
  clip_ = clip;
  draw(seed, clip, kInitialNoiseStream, buffers_.x, n_, team);
}

size_t ClipSampler::step(int row, const float* out, Team& team) {
  const SamplerRow& r = table_.rows[static_cast<size_t>(row)];
  if (r.c_noise != 0) draw(seed_, clip_, r.stream, noise_, n_, team);
  buffers_.out = out;
  return sampler_step(table_, row, buffers_, n_, team);
}

size_t ClipSampler::step(int row, const float* out) {
  const SamplerRow& r = table_.rows[static_cast<size_t>(row)];
  if (r.c_noise != 0) fill_normal(seed_, clip_, r.stream, noise_, n_);
  buffers_.out = out;
  return sampler_step(table_, row, buffers_, n_);
}

}  // namespace gaitcrafter
