// The decoders of one instruction set. The build compiles this file once per set, with GC_DECODE_TABLE naming the
// table, the one symbol that the object exports (csrc/ops/CMakeLists.txt says why).
#include <cstdint>
#include <cstring>

#include "reader/decode.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace gaitcrafter {
namespace {

// Bytes 0x80, 0x40, ... 0x01: which bit of a byte is pixel 0, 1, ... 7.
[[maybe_unused]] constexpr int64_t kPlaces = 0x0102040810204080;

#if defined(__AVX512BW__)
constexpr size_t kBytesAtOnce = 8, kFloatBytes = 2;

inline void block(const uint8_t* packed, uint8_t on, uint8_t* out) {
  const __m512i spread =
      _mm512_set_epi64(0x0707070707070707, 0x0606060606060606, 0x0505050505050505, 0x0404040404040404,
                       0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0x0000000000000000);
  int64_t bits;
  std::memcpy(&bits, packed, sizeof bits);
  const __m512i each = _mm512_shuffle_epi8(_mm512_set1_epi64(bits), spread);
  const __mmask64 set = _mm512_test_epi8_mask(each, _mm512_set1_epi64(kPlaces));
  _mm512_storeu_si512(out, _mm512_maskz_mov_epi8(set, _mm512_set1_epi8(static_cast<char>(on))));
}

inline void block(const uint8_t* packed, float on, float* out) {
  const __m512i places = _mm512_set_epi32(0x0100, 0x0200, 0x0400, 0x0800, 0x1000, 0x2000, 0x4000, 0x8000, 0x01, 0x02,
                                          0x04, 0x08, 0x10, 0x20, 0x40, 0x80);
  const __mmask16 set = _mm512_test_epi32_mask(_mm512_set1_epi32(packed[0] | packed[1] << 8), places);
  _mm512_storeu_ps(out, _mm512_maskz_mov_ps(set, _mm512_set1_ps(on)));
}
#elif defined(__AVX2__)
constexpr size_t kBytesAtOnce = 4, kFloatBytes = 1;

inline void block(const uint8_t* packed, uint8_t on, uint8_t* out) {
  const __m256i spread =
      _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0x0000000000000000);
  const __m256i places = _mm256_set1_epi64x(kPlaces);
  int32_t bits;
  std::memcpy(&bits, packed, sizeof bits);
  const __m256i each = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), places);
  const __m256i set = _mm256_cmpeq_epi8(each, places);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(on))));
}

inline void block(const uint8_t* packed, float on, float* out) {
  const __m256i places = _mm256_set_epi32(0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80);
  const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(packed[0]), places), places);
  _mm256_storeu_ps(out, _mm256_and_ps(_mm256_castsi256_ps(set), _mm256_set1_ps(on)));
}
#else
constexpr size_t kBytesAtOnce = 1, kFloatBytes = 1;

inline void block(const uint8_t* packed, uint8_t on, uint8_t* out) {
  // The factor puts a copy of the byte at every ninth bit; bit 7 of byte k is then bit 7 - k of the packed byte.
  const uint64_t set = (packed[0] * 0x8040201008040201u & 0x8080808080808080u) >> 7;
  const uint64_t pixels = set * on;
  std::memcpy(out, &pixels, sizeof pixels);
}

inline void block(const uint8_t* packed, float on, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = (packed[0] >> (7 - i) & 1) != 0 ? on : 0.0f;
}
#endif

template <size_t kBytes, typename T>
inline void decode(const uint8_t* packed, size_t pixels, T on, T* out) {
  size_t done = 0;
  for (; done + 8 * kBytes <= pixels; done += 8 * kBytes) block(packed + done / 8, on, out + done);
  for (; done < pixels; ++done) out[done] = (packed[done / 8] >> (7 - done % 8) & 1) != 0 ? on : T{0};
}

void to_uint8(const uint8_t* packed, size_t pixels, uint8_t on, uint8_t* out) {
  decode<kBytesAtOnce>(packed, pixels, on, out);
}

void to_float(const uint8_t* packed, size_t pixels, float on, float* out) {
  decode<kFloatBytes>(packed, pixels, on, out);
}

}  // namespace

extern const DecodeTable GC_DECODE_TABLE;
const DecodeTable GC_DECODE_TABLE = {to_uint8, to_float};

}  // namespace gaitcrafter
