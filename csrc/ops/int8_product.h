// Products of unsigned 8-bit activations with signed 8-bit weights, for the convolutions of the int8 tier.
//
//   x = (q - zero[c]) * step[c], one step and zero point per input channel (calibrated); step is folded into the
//   weights W[n][k] * step[c] = v[n][k] * scale[n], one scale per output channel sum_k W x = scale[n] * (sum_k v q -
//   sum_k v zero): the second sum is an integer, known beforehand, where sums start
//
// So zero points cost nothing and are exact, and a pixel outside the frame, which is the value 0, is q = zero.
#pragma once

#include "ops/conv2d.h"
#include "ops/halo_image.h"
#include "ops/product.h"

namespace gaitcrafter {
namespace {

struct Int8Math {
  using A = uint8_t;
  using B = int8_t;
  using Partial = int32_t;
  using Sum = VecInt;
  using Factor = __m512i;
  static constexpr int kGroup = pair_of(DType::kU8);

  struct Finish {
    const int32_t* start = nullptr;  // null: zero
    const float *scale = nullptr, *bias = nullptr;

    GC_INLINE void begun() { start = nullptr; }
  };

  static GC_INLINE Sum start(const Finish& f, int n) {
    return f.start == nullptr ? VecInt{} : load_sums(f.start + n * kLanes);
  }
  static GC_INLINE Factor load_b(const int8_t* p) { return _mm512_loadu_si512(p); }
  static GC_INLINE Factor splat_a(const uint8_t* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static GC_INLINE Sum step(Sum sum, Factor a, Factor b) { return (Sum)_mm512_dpbusd_epi32((__m512i)sum, a, b); }

  template <class Out>
  static GC_INLINE void put(const Finish& f, int n, Sum v, const int32_t* residual, Out* c, int lanes) {
    if (residual != nullptr) v += load_sums(residual);  // partial sums fill whole vectors
    put_sum(f, n, v, c, lanes);
  }

 private:
  static GC_INLINE Sum load_sums(const int32_t* p) {
    VecInt v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static GC_INLINE void put_sum(const Finish&, int, Sum v, int32_t* c, int) { __builtin_memcpy(c, &v, sizeof v); }
  static GC_INLINE void put_sum(const Finish& f, int n, Sum v, Elem* c, int lanes) {
    const Vec y = __builtin_convertvector(v, Vec) * load(f.scale + n * kLanes) + load(f.bias + n * kLanes);
    if (lanes >= kLanes)
      store(c, y);
    else
      store_first(c, y, lanes);
  }
};

#if defined(GC_AMX)
// Sums that began at zero.
GC_INLINE Vec finished(const Int8Math::Finish& f, int n, VecInt v) {
  VecInt start;
  __builtin_memcpy(&start, f.start + n * kLanes, sizeof start);
  return __builtin_convertvector(v + start, Vec) * load(f.scale + n * kLanes) + load(f.bias + n * kLanes);
}
#endif

// Puts pixels into an image as q = round(x / step + zero), clamped to 0..255.
struct PixelQuantisation {
  using E = uint8_t;
  const Quantised& q;

  GC_INLINE void pad(E* y, ptrdiff_t pixels, int channel, int count) const {
    for (ptrdiff_t i = 0; i < pixels; ++i, y += count)
      __builtin_memcpy(y, q.zero_bytes + channel, static_cast<size_t>(count));
  }
  GC_INLINE void put(E* y, Vec v, int channel) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y),
                     rounded(v * load(q.inverse_step + channel) + load(q.zero + channel)));
  }
  GC_INLINE void put_first(E* y, Vec v, int channel, int n) const {
    const Vec x = v * load_first(q.inverse_step + channel, n) + load_first(q.zero + channel, n);
    _mm_mask_storeu_epi8(y, static_cast<__mmask16>((1u << n) - 1), rounded(x));
  }

 private:
  static GC_INLINE __m128i rounded(Vec x) {
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_cvtps_epi32((__m512)x), _mm512_setzero_si512()));
  }
};

}  // namespace
}  // namespace gaitcrafter
