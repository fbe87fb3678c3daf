// Standard normals that depend on (seed, clip, stream, element) alone; the same bits on every instruction set
// (docs/architecture.md, "Noise"; accuracy in docs/samplers.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace gaitcrafter {

// Stream of x_T. Step noise of timestep t is stream 1 + t (SamplerRow::stream).
inline constexpr uint32_t kInitialNoiseStream = 0;

// Writes elements 0..n-1 of one clip's stream; n <= 2^34. Uses choose_isa(), so it throws what that throws, on the
// first call only.
void fill_normal(uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n);

// Elements first..first+n-1; first is a multiple of 4.
void fill_normal_from(uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out, size_t n);

// The same on a given tier, which must be supported here. The bits do not depend on it.
void fill_normal(Isa isa, uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n);

}  // namespace gaitcrafter
