// Binary silhouettes as bits: pixel after pixel, frame-major, most significant bit first (numpy.packbits). The last
// byte of a clip is padded with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gaitcrafter {

inline constexpr size_t packed_bytes(size_t pixels) { return (pixels + 7) / 8; }

// Throws kInvalidRequest unless 0 <= threshold <= 1.
void check_threshold(float threshold);

// A pixel is foreground where x > 2 * threshold - 1, x in [-1, 1]. NaN is background. Returns how many values were not
// finite, which the caller reports.
size_t pack_clip(const float* x, size_t pixels, float threshold, uint8_t* packed);

// One byte per pixel, 0 or 1.
void unpack_clip(const uint8_t* packed, size_t pixels, uint8_t* mask);

}  // namespace gaitcrafter
