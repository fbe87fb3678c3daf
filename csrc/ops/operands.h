// From the fp32 matrices that products leave to the operands that the next product reads. In fp32 they are one and the
// same, and every function here returns its argument.
#pragma once

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

#if defined(GC_BF16)

// Two rows as the lanes of one operand: a0 b0 a1 b1 ...
GC_INLINE __m512i interleave(Vec a, Vec b) {
  alignas(64) static constexpr int16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

// x [rows][pitch] as y [rows / 2][pitch][2], whole vectors of `columns`; a last odd row meets zeros.
GC_INLINE const Elem* pair_rows(const float* x, int rows, ptrdiff_t pitch, int columns, Elem* y) {
  for (int r = 0; r < rows; r += 2, x += 2 * pitch, y += 2 * pitch)
    for (int c = 0; c < columns; c += kLanes) {
      const Vec second = r + 1 < rows ? load(x + pitch + c) : Vec{};
      _mm512_storeu_si512(y + 2 * c, interleave(load(x + c), second));
    }
  return y - static_cast<ptrdiff_t>(round_up(rows, 2)) * pitch;
}

// x [rows][pitch] as y alike, whole vectors of `columns`.
GC_INLINE const Elem* plain_rows(const float* x, int rows, ptrdiff_t pitch, int columns, Elem* y) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; c += kLanes) store(y + r * pitch + c, load(x + r * pitch + c));
  return y;
}

// Where a product whose result will become `operands` writes it.
GC_INLINE float* fp32_rows(Elem*, float* scratch) { return scratch; }

#else

GC_INLINE const Elem* pair_rows(const float* x, int, ptrdiff_t, int, Elem*) { return x; }
GC_INLINE const Elem* plain_rows(const float* x, int, ptrdiff_t, int, Elem*) { return x; }
GC_INLINE float* fp32_rows(Elem* operands, float*) { return operands; }

#endif

}  // namespace
}  // namespace gaitcrafter
