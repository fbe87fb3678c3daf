// What the ops work on: channels-last fp32 activations of one clip with a pitch.
#pragma once

#include <cstddef>
#include <cstdint>

// In headers that the per-ISA objects include nothing may be emitted out of line: the linker would keep one copy of
// several, and an AVX-512 copy would then run on a machine without it. tests/native/test_symbols.py watches this.
#define GC_INLINE __attribute__((always_inline)) inline

namespace gaitcrafter {

enum class DType : uint8_t { kF32 };

// Waits to be applied by whoever reads the tensor: silu(x * scale[c] + shift[c]). Null scale: nothing is pending.
struct Affine {
  const float* scale = nullptr;
  const float* shift = nullptr;
  ptrdiff_t frame_stride = 0;  // floats from one frame's vectors to the next; 0 if the whole clip shares them
};

// frames x height x width pixels of `channels` floats; `pitch` floats from one pixel to the next, so that a
// concatenation is two writers of one buffer.
struct Tensor {
  float* data = nullptr;
  int frames = 0, height = 0, width = 0, channels = 0;
  ptrdiff_t pitch = 0;
  DType dtype = DType::kF32;
  Affine pending;
  float* statistics = nullptr;  // see norm_statistics.h; null if nobody wants them

  GC_INLINE ptrdiff_t sites() const { return static_cast<ptrdiff_t>(height) * width; }
  GC_INLINE ptrdiff_t pixels() const { return frames * sites(); }
  GC_INLINE float* pixel(ptrdiff_t index) const { return data + index * pitch; }
};

// Tiles [begin, end) of an op's fixed grid. Every tile writes its own output and its own statistics slot, so any
// split of the grid over threads gives the same bits.
struct TileRange {
  int begin = 0, end = 0;
};

// Pixels [begin, end) of a tensor; every op on single pixels takes one.
struct PixelRange {
  ptrdiff_t begin = 0, end = 0;
};

GC_INLINE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
GC_INLINE constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }
GC_INLINE constexpr int min_of(int a, int b) { return a < b ? a : b; }
GC_INLINE constexpr int max_of(int a, int b) { return a > b ? a : b; }

// The widest vector of any instruction set; scratch is sized for it.
inline constexpr int kWidestLanes = 16;

}  // namespace gaitcrafter
