#include "noise/normal.h"

#include <cstring>

#include "noise/philox.h"

// Everything down to fill_tiles is inlined into one function per instruction set, so that the compiler vectorises the
// same source at each width and no out-of-line copy built for a wide set can be linked into the portable path.
#define GC_INLINE [[gnu::always_inline]] static inline

namespace gaitcrafter {
namespace {

constexpr int kBlocks = 64;            // counters of one tile
constexpr int kNormals = 4 * kBlocks;  // normals of one tile
constexpr float kTwoToMinus24 = 0x1p-24f;

// Coefficients: fit_polynomials.py. ln(1 + f) = f - f^2/2 + f^3 P(f) on [sqrt(1/2), sqrt(2)) - 1.
constexpr float kLn[9] = {0.333333313f,  -0.24999997f, 0.200007156f,  -0.166678026f, 0.142490581f,
                          -0.124256872f, 0.116854198f, -0.114797339f, 0.0697161183f};
// sin(2 pi f) = f S(f^2) and cos(2 pi f) = C(f^2) on [-1/8, 1/8].
constexpr float kSin[4] = {6.28318548f, -41.3416634f, 81.5925446f, -75.4016113f};
constexpr float kCos[5] = {1.0f, -19.7392082f, 64.9393158f, -85.4428482f, 59.2201691f};
// ln 2 in two parts; the first times an exponent is exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr uint32_t kSqrtHalfBits = 0x3F3504F3u;

GC_INLINE float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
GC_INLINE uint32_t as_bits(float value) { return __builtin_bit_cast(uint32_t, value); }

// Natural logarithm of u in (0, 1].
GC_INLINE float ln_unit(float u) {
  const uint32_t offset = as_bits(u) - kSqrtHalfBits;
  const float e = static_cast<float>(static_cast<int32_t>(offset) >> 23);
  const float f = as_float((offset & 0x007FFFFFu) + kSqrtHalfBits) - 1.0f;
  const float g = f * f;
  float p = kLn[8];
  p = p * f + kLn[7];
  p = p * f + kLn[6];
  p = p * f + kLn[5];
  p = p * f + kLn[4];
  p = p * f + kLn[3];
  p = p * f + kLn[2];
  p = p * f + kLn[1];
  p = p * f + kLn[0];
  float y = f * g * p;
  y = y + e * kLn2Low;
  y = y - 0.5f * g;
  return (f + y) + e * kLn2High;
}

// Two words to two normals (Box and Muller 1958).
GC_INLINE void box_muller(uint32_t w0, uint32_t w1, float& a, float& b) {
  const float u1 = static_cast<float>(static_cast<int32_t>((w0 >> 8) + 1)) * kTwoToMinus24;
  const float r = __builtin_sqrtf(-2.0f * ln_unit(u1));

  // Turns as an integer, so that the nearest quarter and the rest are exact.
  const int32_t turns = static_cast<int32_t>(w1 >> 8);
  const int32_t quarter = (turns + (1 << 21)) >> 22;
  const float f = static_cast<float>(turns - (quarter << 22)) * kTwoToMinus24;
  const float g = f * f;
  const float s = f * (((kSin[3] * g + kSin[2]) * g + kSin[1]) * g + kSin[0]);
  const float c = (((kCos[4] * g + kCos[3]) * g + kCos[2]) * g + kCos[1]) * g + kCos[0];

  // Quarter turns swap sine and cosine and flip signs: cos is negative in quarters 1 and 2, sin in 2 and 3.
  const uint32_t swap = 0u - static_cast<uint32_t>(quarter & 1);
  const uint32_t s_bits = as_bits(s), c_bits = as_bits(c);
  const uint32_t cos_sign = static_cast<uint32_t>((quarter + 1) & 2) << 30;
  const uint32_t sin_sign = static_cast<uint32_t>(quarter & 2) << 30;
  const uint32_t cos_bits = ((c_bits & ~swap) | (s_bits & swap)) ^ cos_sign;
  const uint32_t sin_bits = ((s_bits & ~swap) | (c_bits & swap)) ^ sin_sign;
  a = r * as_float(cos_bits);
  b = r * as_float(sin_bits);
}

// One tile: counters first_block .. first_block + kBlocks - 1.
GC_INLINE void fill_tile(uint64_t seed, uint64_t clip, uint32_t stream, uint32_t first_block, float* out) {
  alignas(64) uint32_t w[4][kBlocks];
  alignas(64) float z[4][kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    w[0][i] = first_block + static_cast<uint32_t>(i);
    w[1][i] = stream;
    w[2][i] = static_cast<uint32_t>(clip);
    w[3][i] = static_cast<uint32_t>(clip >> 32);
  }
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t p0 = uint64_t{kPhiloxMul0} * w[0][i];
      const uint64_t p1 = uint64_t{kPhiloxMul1} * w[2][i];
      w[0][i] = static_cast<uint32_t>(p1 >> 32) ^ w[1][i] ^ key0;
      w[2][i] = static_cast<uint32_t>(p0 >> 32) ^ w[3][i] ^ key1;
      w[1][i] = static_cast<uint32_t>(p1);
      w[3][i] = static_cast<uint32_t>(p0);
    }
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  for (int i = 0; i < kBlocks; ++i) box_muller(w[0][i], w[1][i], z[0][i], z[1][i]);
  for (int i = 0; i < kBlocks; ++i) box_muller(w[2][i], w[3][i], z[2][i], z[3][i]);
  for (int i = 0; i < kBlocks; ++i) {
    for (int j = 0; j < 4; ++j) out[4 * i + j] = z[j][i];
  }
}

GC_INLINE void fill_tiles(uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out, size_t n) {
  size_t done = 0;
  for (; done + kNormals <= n; done += kNormals) {
    fill_tile(seed, clip, stream, static_cast<uint32_t>((first + done) / 4), out + done);
  }
  if (done < n) {
    alignas(64) float last[kNormals];
    fill_tile(seed, clip, stream, static_cast<uint32_t>((first + done) / 4), last);
    std::memcpy(out + done, last, (n - done) * sizeof(float));
  }
}

void fill_portable(uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out, size_t n) {
  fill_tiles(seed, clip, stream, first, out, n);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void fill_avx2(uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out,
                                       size_t n) {
  fill_tiles(seed, clip, stream, first, out, n);
}

#if defined(__clang__)
#define GC_AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#else
#define GC_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif
[[gnu::target(GC_AVX512)]] void fill_avx512(uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out,
                                            size_t n) {
  fill_tiles(seed, clip, stream, first, out, n);
}
#endif

void fill_on(Isa isa, uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out, size_t n) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return fill_avx512(seed, clip, stream, first, out, n);
  if (isa == Isa::kAvx2) return fill_avx2(seed, clip, stream, first, out, n);
#endif
  static_cast<void>(isa);
  fill_portable(seed, clip, stream, first, out, n);
}

}  // namespace

void fill_normal(Isa isa, uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n) {
  fill_on(isa, seed, clip, stream, 0, out, n);
}

void fill_normal_from(uint64_t seed, uint64_t clip, uint32_t stream, uint64_t first, float* out, size_t n) {
  static const Isa isa = choose_isa();
  fill_on(isa, seed, clip, stream, first, out, n);
}

void fill_normal(uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n) {
  fill_normal_from(seed, clip, stream, 0, out, n);
}

}  // namespace gaitcrafter
