// The one inner loop of the engine: C[m][n] (+)= sum_k A[m][k] * B[k][n] over a tile held in registers.
//
// B is read as vectors (packed weights, or activations laid out channel by token), A as single elements (pairs of them
// in bfloat16) that are broadcast, so A may lie anywhere: the pixels of a convolution are pointers into a halo-padded
// image, and the products of attention need no transposed copies. K runs over segments (the rows of a convolution
// window) of consecutive elements; one whose length is odd is padded by a zero row of B and reads one element more of
// A. On AVX-512 a tile is 6 rows x 4 vectors: 24 multiply-adds for 4 loads and 6 broadcasts.
#pragma once

#include "ops/packing.h"
#include "ops/simd.h"

namespace gaitcrafter {
namespace {

// Rows of a register tile for a panel of `vectors` vectors: enough independent sums to hide the FMA latency.
constexpr int full_rows(int vectors) { return vectors >= 4 || kLanes < 16 ? (vectors == 1 ? 8 : 6) : 8; }
constexpr int half_rows(int vectors) { return full_rows(vectors) / 2; }
constexpr int kMaxRows = 8;

// How A's rows lie: each at its own address with k consecutive, or side by side ([k / kPair][row][kPair]) with `a_step`
// elements from one step of k to the next.
enum class Layout { kRows, kColumns };

struct Product {
  const ptrdiff_t* segment = nullptr;  // offsets of the segments from a row's address
  int segments = 1, k = 0;             // elements of one segment
  ptrdiff_t a_step = 0;                // Layout::kColumns only
  const Elem* b = nullptr;
  ptrdiff_t b_pitch = 0;        // elements of a step of k
  const float* bias = nullptr;  // whole vectors; null is zero
  int columns = 0, vectors = 0;
};

// The result is stored as Out; a residual in Added is added at the end (null, for all rows, is zero; it may be c).
template <class Out, class Added>
struct Row {
  const Elem* a;
  Out* c;
  const Added* residual;
};

template <class Out, class Added>
struct Tile {
  const Elem* a[kMaxRows];
  Out* c[kMaxRows];
  const Added* residual[kMaxRows];
};

inline constexpr ptrdiff_t kNoOffset = 0;

template <int kRows, int kVectors, class Out, class Added>
GC_INLINE void finish_tile(const Product& p, const Tile<Out, Added>& t, Vec (&sum)[kRows][kVectors]) {
  const int rest = p.columns - (kVectors - 1) * kLanes;
  const bool whole = rest >= kLanes, added = t.residual[0] != nullptr;
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      Vec v = sum[m][n];
      if (p.bias != nullptr) v += load(p.bias + n * kLanes);
      if (n + 1 < kVectors || whole) {
        if (added) v += load(t.residual[m] + n * kLanes);
        store(t.c[m] + n * kLanes, v);
      } else {
        if (added) v += load_first(t.residual[m] + n * kLanes, rest);
        store_first(t.c[m] + n * kLanes, v, rest);
      }
    }
  }
}

template <Layout kLayout, int kRows, int kVectors, class Out, class Added>
__attribute__((noinline)) void tile_product(const Product& p, const Tile<Out, Added>& t) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) sum[m][n] = Vec{};
  const Elem* b = p.b;
  const ptrdiff_t b_pitch = p.b_pitch, step = kLayout == Layout::kColumns ? p.a_step : kPair;
  const ptrdiff_t depth = ceil_div(p.k, kPair);
  for (int s = 0; s < p.segments; ++s) {
    const Elem* a[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) a[m] = (kLayout == Layout::kRows ? t.a[m] : t.a[0] + m * kPair) + p.segment[s];
    for (ptrdiff_t k = 0; k < depth; ++k) {
      Operand w[kVectors];
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) w[n] = load_operand(b + n * kLanes * kPair);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const Operand x = splat_operand(a[m] + k * step);
#pragma GCC unroll 4
        for (int n = 0; n < kVectors; ++n) sum[m][n] = multiply_add(sum[m][n], x, w[n]);
      }
      b += b_pitch;
    }
  }
  finish_tile<kRows, kVectors>(p, t, sum);
}

template <Layout kLayout, int kVectors, class Out, class Added>
GC_INLINE void pick_rows(const Product& p, const Tile<Out, Added>& t, int rows) {
  if (rows <= half_rows(kVectors))
    tile_product<kLayout, half_rows(kVectors), kVectors>(p, t);
  else
    tile_product<kLayout, full_rows(kVectors), kVectors>(p, t);
}

// One panel of B against `rows` rows of A. `row(m)` gives the addresses of row m as Row<Out, Added>. A last tile that
// is not full repeats its last row into a sink.
template <Layout kLayout, class Out, class Added, class RowAt>
GC_INLINE void panel_product(const Product& p, int rows, RowAt row) {
  Out sink[kMaxVectors * kLanes];
  const int full = p.vectors == 1   ? full_rows(1)
                   : p.vectors == 2 ? full_rows(2)
                   : p.vectors == 3 ? full_rows(3)
                                    : full_rows(4);
  for (int first = 0; first < rows; first += full) {
    const int count = rows - first < full ? rows - first : full;
    Tile<Out, Added> t;
    for (int m = 0; m < count; ++m) {
      const Row<Out, Added> r = row(first + m);
      t.a[m] = r.a;
      t.c[m] = r.c;
      t.residual[m] = r.residual;
    }
    for (int m = count; m < full; ++m) {
      t.a[m] = t.a[count - 1];
      t.c[m] = sink;
      t.residual[m] = t.residual[count - 1];
    }
    switch (p.vectors) {
      case 1:
        pick_rows<kLayout, 1>(p, t, count);
        break;
      case 2:
        pick_rows<kLayout, 2>(p, t, count);
        break;
#if defined(__AVX512F__)
      case 3:
        pick_rows<kLayout, 3>(p, t, count);
        break;
      case 4:
        pick_rows<kLayout, 4>(p, t, count);
        break;
#endif
    }
  }
}

// Panel `index` of packed weights in a product over one segment of all K.
GC_INLINE Product packed_product(const Packed& w, const float* bias, int index) {
  const Panel panel = panel_at(index, w.n, kLanes, kMaxVectors);
  Product p;
  p.segment = &kNoOffset;
  p.k = w.k;
  p.b = static_cast<const Elem*>(w.data) + static_cast<ptrdiff_t>(w.k) * kLanes * panel.first;
  p.b_pitch = panel.vectors * kLanes * kPair;
  p.bias = bias == nullptr ? nullptr : bias + panel.first * kLanes;
  p.columns = min_of(w.n - panel.first * kLanes, panel.vectors * kLanes);
  p.vectors = panel.vectors;
  return p;
}

GC_INLINE int panels_of(int n) { return panel_count(n, kLanes, kMaxVectors); }

GC_INLINE int first_column(int n, int panel) { return panel_at(panel, n, kLanes, kMaxVectors).first * kLanes; }

}  // namespace
}  // namespace gaitcrafter
