// The tile registers of AMX: eight matrices of 16 rows x 64 bytes, here always all of them. By inline assembly, since
// the compilers' intrinsics want register numbers as literals, and GCC's do not say that a load reads memory.
//
// tile_multiply adds A [16][32] times B [16][16][2] (pairs of rows of a 32 x 16 matrix), both bfloat16, to 16 x 16
// floats, in a fixed order of K, rounding to nearest even; denormals count as zero and become zero; the thread's
// rounding mode does not matter. tile_multiply_bytes adds unsigned A [16][64] times signed B [16][16][4] to 32-bit
// integers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gaitcrafter {
namespace {

#define GC_TILE_INLINE __attribute__((always_inline)) inline

constexpr int kTileRows = 16;
constexpr ptrdiff_t kTileRowBytes = 64;
constexpr ptrdiff_t kTileBytes = kTileRows * kTileRowBytes;

// While one lives, its thread may use the tiles. Configuring takes some 70 ns; a thread whose tiles are in use
// costs the kernel 8 KiB more at every switch.
class TilesInUse {
 public:
  GC_TILE_INLINE TilesInUse() {
    Shapes s = {};
    s.palette = 1;
    for (int i = 0; i < 8; ++i) {
      s.row_bytes[i] = kTileRowBytes;
      s.rows[i] = kTileRows;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(s));
  }
  GC_TILE_INLINE ~TilesInUse() { __asm__ volatile("tilerelease"); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;

 private:
  struct alignas(64) Shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
};

template <int kTile>
GC_TILE_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

// Rows `stride` bytes apart.
template <int kTile>
GC_TILE_INLINE void tile_load(const void* p, ptrdiff_t stride) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(p), "r"(stride) : "memory");
}

template <int kTile>
GC_TILE_INLINE void tile_store(void* p, ptrdiff_t stride) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(p), "r"(stride) : "memory");
}

template <int kSum, int kA, int kB>
GC_TILE_INLINE void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

template <int kSum, int kA, int kB>
GC_TILE_INLINE void tile_multiply_bytes() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

#undef GC_TILE_INLINE

}  // namespace
}  // namespace gaitcrafter
