// The sampler's state of one clip, over memory that the caller owns: what a CPU backend keeps per lane.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampler/step.h"

namespace gaitcrafter {

class ClipSampler {
 public:
  // Bytes to give the constructor, for clips of n = channels x frames x height x width values.
  static size_t workspace_bytes(const SamplerTable& table, size_t n);

  // `workspace` is 64-byte aligned. It and the table outlive this object. Allocates nothing.
  ClipSampler(const SamplerTable& table, size_t n, std::byte* workspace);

  // Draws x_T of a clip; a later start begins another clip in the same memory. The second draws with a team, whose
  // leader calls.
  void start(uint64_t seed, uint64_t clip);
  void start(uint64_t seed, uint64_t clip, Team& team);

  // What the denoiser reads next (x_T, later x_(t-1)); after the last row x_0.
  const float* x() const { return buffers_.x; }
  float* x() { return buffers_.x; }

  // Draws the row's noise if it has any and steps. Returns the count of non-finite values of `out`.
  size_t step(int row, const float* out);
  size_t step(int row, const float* out, Team& team);

 private:
  const SamplerTable& table_;
  size_t n_;
  uint64_t seed_ = 0, clip_ = 0;
  float* noise_ = nullptr;
  StepBuffers buffers_;
};

}  // namespace gaitcrafter
