// Products by the tiles of the matrix unit (core/amx_tiles.h): 2 x 2 sums of 16 x 16, held in tiles for all of K.
//
// A is read where it lies, 16 rows at one distance; B as packed weights, [K / kGroup][column][kGroup], whose 64-byte
// rows of 16 columns are a tile's as they are. Runs of K are read in whole steps of 64 bytes: what lies past A's run
// meets zero weights, and may not be NaN.
#pragma once

#include "core/amx_tiles.h"
#include "ops/product.h"

namespace gaitcrafter {
namespace {

constexpr int kTileDepth = static_cast<int>(kTileRowBytes / sizeof(Elem));  // of K in one step
constexpr int kTileColumns = 16;
constexpr int kBlockTiles = 2;  // of a block of sums, along either side
constexpr int kBlockRows = kBlockTiles * kTileRows;
constexpr ptrdiff_t kBlockPitch = kBlockTiles * kTileRowBytes;  // bytes of a row of a full block

// A block of sums: rows x columns of fp32 or int32, row by row, `pitch` bytes from one to the next.
struct TileBlock {
  std::byte* data = nullptr;
  ptrdiff_t pitch = 0;
};

// One block.
struct TileSums {
  const std::byte* a[kBlockTiles];  // first row of each tile of A
  ptrdiff_t a_pitch = 0;            // bytes from row to row
  const std::byte* b = nullptr;
  ptrdiff_t b_pitch = 0;               // bytes of a step of k
  const ptrdiff_t* segment = nullptr;  // byte offsets of the runs of K from a row's address
  int segments = 1, steps = 0;         // steps of 64 bytes of one run
  TileBlock from, to;                  // sums to begin with; no data: zeros
};

template <class Math, int kSum, int kA, int kB>
GC_INLINE void multiply_tiles() {
  if constexpr (sizeof(typename Math::A) == 1)
    tile_multiply_bytes<kSum, kA, kB>();
  else
    tile_multiply<kSum, kA, kB>();
}

struct NoSideWork {
  GC_INLINE void operator()() {}
};

// Tiles 0 to 3 are the sums, 4 and 5 A, 6 and 7 B. `side()` is called after every step: a step keeps the matrix unit
// busy for 64 cycles and the vector units for none.
template <class Math, int kRowTiles, int kColumnTiles, class Side>
__attribute__((noinline)) void sum_tiles(const TileSums& s, Side& side) {
  constexpr bool kTwoRows = kRowTiles == 2, kTwoColumns = kColumnTiles == 2;
  if (s.from.data == nullptr) {
    tile_zero<0>();
    if (kTwoColumns) tile_zero<1>();
    if (kTwoRows) tile_zero<2>();
    if (kTwoRows && kTwoColumns) tile_zero<3>();
  } else {
    const std::byte* second = s.from.data + kTileRows * s.from.pitch;
    tile_load<0>(s.from.data, s.from.pitch);
    if (kTwoColumns) tile_load<1>(s.from.data + kTileRowBytes, s.from.pitch);
    if (kTwoRows) tile_load<2>(second, s.from.pitch);
    if (kTwoRows && kTwoColumns) tile_load<3>(second + kTileRowBytes, s.from.pitch);
  }
  const std::byte* b = s.b;
  const ptrdiff_t b_step = kTileRows * s.b_pitch;
  for (int i = 0; i < s.segments; ++i) {
    const std::byte* a0 = s.a[0] + s.segment[i];
    const std::byte* a1 = kTwoRows ? s.a[1] + s.segment[i] : nullptr;
    for (int k = 0; k < s.steps; ++k, b += b_step) {
      tile_load<4>(a0 + k * kTileRowBytes, s.a_pitch);
      tile_load<6>(b, s.b_pitch);
      multiply_tiles<Math, 0, 4, 6>();
      if (kTwoColumns) {
        tile_load<7>(b + kTileRowBytes, s.b_pitch);
        multiply_tiles<Math, 1, 4, 7>();
      }
      if (kTwoRows) {
        tile_load<5>(a1 + k * kTileRowBytes, s.a_pitch);
        multiply_tiles<Math, 2, 5, 6>();
        if (kTwoColumns) multiply_tiles<Math, 3, 5, 7>();
      }
      side();
    }
  }
  std::byte* second = s.to.data + kTileRows * s.to.pitch;
  tile_store<0>(s.to.data, s.to.pitch);
  if (kTwoColumns) tile_store<1>(s.to.data + kTileRowBytes, s.to.pitch);
  if (kTwoRows) tile_store<2>(second, s.to.pitch);
  if (kTwoRows && kTwoColumns) tile_store<3>(second + kTileRowBytes, s.to.pitch);
}

template <class Math, class Side>
GC_INLINE void sum_tiles(const TileSums& s, int row_tiles, int column_tiles, Side& side) {
  if (column_tiles == 2)
    row_tiles == 2 ? sum_tiles<Math, 2, 2>(s, side) : sum_tiles<Math, 1, 2>(s, side);
  else
    row_tiles == 2 ? sum_tiles<Math, 2, 1>(s, side) : sum_tiles<Math, 1, 1>(s, side);
}

template <class Math>
GC_INLINE void sum_tiles(const TileSums& s, int row_tiles, int column_tiles) {
  NoSideWork none;
  sum_tiles<Math>(s, row_tiles, column_tiles, none);
}

// Vector n of row r of a block of sums.
template <class Math>
GC_INLINE typename Math::Sum block_sum(TileBlock sums, int r, int n) {
  typename Math::Sum v;
  __builtin_memcpy(&v, sums.data + r * sums.pitch + n * kTileRowBytes, sizeof v);
  return v;
}

// A matrix of elements: as A, rows of consecutive k; as B, [k / 2][column][2]. `pitch` is what lies between rows, or
// between pairs of k, in bytes.
struct TileOperand {
  const Elem* data = nullptr;
  ptrdiff_t pitch = 0;
};

// A B for `rows` and `columns` in whole tiles, K in `steps`. finish(row, rows, column, vectors, sums) takes each block
// from its first row and column on: sums that are read there are gone at the next one.
template <class Finish>
GC_INLINE void multiply_matrices(TileOperand a, int rows, TileOperand b, int columns, int steps, Finish finish) {
  alignas(64) std::byte block[kBlockRows * kBlockPitch];
  static constexpr ptrdiff_t kNowhere = 0;
  TileSums s;
  s.a_pitch = a.pitch;
  s.b_pitch = b.pitch;
  s.segment = &kNowhere;
  s.steps = steps;
  s.to = {block, kBlockPitch};
  for (int column = 0; column < columns; column += kBlockTiles * kTileColumns) {
    const int vectors = min_of(kBlockTiles, (columns - column) / kTileColumns);
    s.b = reinterpret_cast<const std::byte*>(b.data) + column * 4;
    for (int row = 0; row < rows; row += kBlockRows) {
      const int tiles = min_of(kBlockTiles, (rows - row) / kTileRows);
      s.a[0] = reinterpret_cast<const std::byte*>(a.data) + row * a.pitch;
      s.a[1] = s.a[0] + kTileRows * a.pitch;
      sum_tiles<ElementMath>(s, tiles, vectors);
      finish(row, tiles * kTileRows, column, vectors, s.to);
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
