#include "sampler/pack.h"

#include <string>

#include "core/error.h"

namespace gaitcrafter {

void check_threshold(float threshold) {
  if (!(threshold >= 0.0f && threshold <= 1.0f)) {
    throw Error(Status::kInvalidRequest,
                "threshold is " + std::to_string(threshold) + "; it must lie in 0 to 1 (0.5 is the middle grey)");
  }
}

size_t pack_clip(const float* x, size_t pixels, float threshold, uint8_t* packed) {
  const float level = 2.0f * threshold - 1.0f;
  size_t non_finite = 0;
  for (size_t at = 0; at < pixels; at += 8) {
    const size_t count = pixels - at < 8 ? pixels - at : 8;
    uint32_t bits = 0, bad = 0;
    for (size_t i = 0; i < count; ++i) {
      const float value = x[at + i];
      bits |= (value > level ? 0x80u : 0u) >> i;
      bad += value - value == 0.0f ? 0u : 1u;
    }
    packed[at / 8] = static_cast<uint8_t>(bits);
    non_finite += bad;
  }
  return non_finite;
}

void unpack_clip(const uint8_t* packed, size_t pixels, uint8_t* mask) {
  for (size_t i = 0; i < pixels; ++i) mask[i] = (packed[i / 8] >> (7 - i % 8)) & 1u;
}

}  // namespace gaitcrafter
