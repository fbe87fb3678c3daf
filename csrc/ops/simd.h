// One vector of floats, written with GCC's vector extension and compiled once per instruction set. Included by the
// per-ISA objects alone; everything has internal linkage (see GC_INLINE in tensor.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/tensor.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#if defined(GC_AMX)
#include "core/amx_tiles.h"
#endif

namespace gaitcrafter {
namespace {

// What activations and weights are stored as, and multiplied as. Sums are fp32 everywhere.
#if defined(GC_BF16)
using Elem = Bf16;
constexpr DType kElem = DType::kBf16;
#else
using Elem = float;
constexpr DType kElem = DType::kF32;
#endif
constexpr int kPair = pair_of(kElem);

#if defined(GC_AMX)
constexpr int kLanes = 16;
constexpr int kMaxVectors = 2;  // tiles of 16 columns, see amx_product.h
#elif defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kMaxVectors = 4;  // vectors of one weight panel: 24 accumulators, 4 weights, 1 broadcast of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kMaxVectors = 2;  // 12 accumulators, 2 weights, 1 broadcast of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kMaxVectors = 2;
#endif
static_assert(kLanes <= kWidestLanes);

// Lives as long as an op multiplies.
#if defined(GC_AMX)
constexpr bool kTiles = true;
using ProductUnit = TilesInUse;
#else
constexpr bool kTiles = false;
struct ProductUnit {
  GC_INLINE ProductUnit() {}
};
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t VecInt __attribute__((vector_size(kLanes * sizeof(int32_t))));

GC_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

GC_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

#if defined(GC_BF16)
GC_INLINE Vec load(const Bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
}

GC_INLINE void store(Bf16* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

// Two vectors that lie side by side.
GC_INLINE void store_both(Bf16* p, Vec a, Vec b) {
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
}

GC_INLINE Vec load_first(const Bf16* p, int n) {
  const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
}

GC_INLINE void store_first(Bf16* p, Vec v, int n) {
  const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
  _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#endif

// The first n lanes; the others are zero and nothing past p + n is touched.
GC_INLINE Vec load_first(const float* p, int n) {
  float lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

GC_INLINE void store_first(float* p, Vec v, int n) {
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

GC_INLINE Vec splat(float x) {
#if defined(__AVX512F__)
  return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif defined(__AVX2__)
  return Vec{x, x, x, x, x, x, x, x};
#else
  return Vec{x, x, x, x};
#endif
}

// One step of a product: kPair elements of a row of A, in every lane, times kPair rows of B.
#if defined(GC_BF16)
typedef __m512i Operand;

GC_INLINE Operand load_operand(const Bf16* p) { return _mm512_loadu_si512(p); }
GC_INLINE Operand splat_operand(const Bf16* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
GC_INLINE Vec multiply_add(Vec sum, Operand a, Operand b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
typedef Vec Operand;

GC_INLINE Operand load_operand(const float* p) { return load(p); }
GC_INLINE Operand splat_operand(const float* p) { return splat(*p); }
GC_INLINE Vec multiply_add(Vec sum, Operand a, Operand b) { return sum + a * b; }
#endif

GC_INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
GC_INLINE Vec minimum(Vec a, Vec b) { return a < b ? a : b; }

// Lane i meets lane i ^ width, for width = half the lanes down to one.
GC_INLINE float sum_lanes(Vec v) {
#if defined(__AVX512F__)
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif defined(__AVX2__)
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2);
#endif
  return v[0];
}

#if defined(GC_BF16)
// 2^(n + r) with n = floor(x) and a minimax cubic of 2^r on [0, 1): relative error below 1e-4, a twentieth of a
// bfloat16's. Overflows to infinity and underflows to zero.
GC_INLINE Vec exp2(Vec x) {
  const __m512 t = (__m512)x;
  const Vec r = (Vec)_mm512_reduce_ps(t, 1);  // t - floor(t)
  Vec p = splat(0.07802387f);
  p = p * r + splat(0.22606693f);
  p = p * r + splat(0.69583422f);
  p = p * r + splat(0.99992508f);
  return (Vec)_mm512_scalef_ps((__m512)p, t);
}

GC_INLINE Vec exp(Vec x) { return exp2(x * splat(1.44269504f)); }

GC_INLINE Vec silu(Vec x) { return x * (Vec)_mm512_rcp14_ps((__m512)(splat(1.0f) + exp(-x))); }
#else
// exp by x = n ln2 + r, |r| <= ln2 / 2, and 1 + r + r^2 q(r) with q the minimax polynomial of degree 4 for the relative
// error (3.1e-9 in exact arithmetic; in fp32 below 1.6e-7, tests/native/test_ops.py). Arguments are clamped to
// [-87, 88], where the result is a normal number.
GC_INLINE Vec exp(Vec x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
  x = maximum(minimum(x, splat(88.0f)), splat(-87.0f));
  const Vec shifted = x * splat(1.44269504f) + splat(kMagic);
  const Vec n = shifted - splat(kMagic);
  Vec r = x - n * splat(0.693145751953125f);  // ln2 in two parts; the product with the first is exact
  r = r - n * splat(1.4286068203094172e-6f);
  Vec q = splat(0.001381459877758596f);
  q = q * r + splat(0.008368716575205326f);
  q = q * r + splat(0.04166838899254799f);
  q = q * r + splat(0.1666652113199234f);
  q = q * r + splat(0.4999999403953552f);
  const Vec y = q * (r * r) + r + splat(1.0f);
  return (Vec)((VecInt)y + ((VecInt)shifted << 23));
}

GC_INLINE Vec silu(Vec x) { return x / (splat(1.0f) + exp(-x)); }
#endif

}  // namespace
}  // namespace gaitcrafter
