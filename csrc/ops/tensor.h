// What the ops work on: channels-last activations of one clip with a pitch, fp32 or bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>

// In headers that the per-ISA objects include nothing may be emitted out of line: the linker would keep one copy of
// several, and an AVX-512 copy would then run on a machine without it. tests/native/test_symbols.py watches this.
#define GC_INLINE __attribute__((always_inline)) inline

namespace gaitcrafter {

enum class DType : uint8_t { kF32, kBf16, kU8 };  // kU8: operands of int8 products only

// The upper half of a float. Conversions round to nearest even; NaN stays NaN.
struct Bf16 {
  uint16_t bits;
};

GC_INLINE float to_float(float x) { return x; }
GC_INLINE float to_float(Bf16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }

GC_INLINE void assign(float& y, float x) { y = x; }
GC_INLINE void assign(Bf16& y, float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  const uint32_t quiet = u >> 16 | 0x40, rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  y.bits = static_cast<uint16_t>(x != x ? quiet : rounded);
}

GC_INLINE constexpr int bytes_of(DType type) { return type == DType::kF32 ? 4 : type == DType::kBf16 ? 2 : 1; }

// Waits to be applied by whoever reads the tensor: silu(x * scale[c] + shift[c]). Null scale: nothing is pending.
struct Affine {
  const float* scale = nullptr;
  const float* shift = nullptr;
  ptrdiff_t frame_stride = 0;  // floats from one frame's vectors to the next; 0 if the whole clip shares them
};

// frames x height x width pixels of `channels` elements; `pitch` elements from one pixel to the next, so that a
// concatenation is two writers of one buffer.
struct Tensor {
  void* data = nullptr;
  int frames = 0, height = 0, width = 0, channels = 0;
  ptrdiff_t pitch = 0;
  DType dtype = DType::kF32;
  Affine pending;
  float* statistics = nullptr;  // see norm_statistics.h; null if nobody wants them

  GC_INLINE ptrdiff_t sites() const { return static_cast<ptrdiff_t>(height) * width; }
  GC_INLINE ptrdiff_t pixels() const { return frames * sites(); }
  template <class E>
  GC_INLINE E* pixel(ptrdiff_t index) const {
    return static_cast<E*>(data) + index * pitch;
  }
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

// Elements of K that one step of a product takes: dot-product instructions work on a few at once.
GC_INLINE constexpr int pair_of(DType operand) { return 4 / bytes_of(operand); }

// What an op table multiplies: elements of a type, by vectors, or by tiles of the matrix unit.
struct OperandType {
  DType type;
  bool tiles;

  GC_INLINE constexpr OperandType(DType t, bool by_tiles = false) : type(t), tiles(by_tiles) {}  // NOLINT(*-explicit-*)
  // Every run of weights along K is padded with zeros to a multiple of this.
  GC_INLINE constexpr int unit() const { return tiles ? 64 / bytes_of(type) : pair_of(type); }
};

}  // namespace gaitcrafter
