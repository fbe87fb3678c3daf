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

template <class Math>
struct ProductOf {
  const ptrdiff_t* segment = nullptr;  // offsets of the segments from a row's address
  int segments = 1, k = 0;             // elements of one segment
  ptrdiff_t a_step = 0;                // Layout::kColumns only
  const typename Math::B* b = nullptr;
  ptrdiff_t b_pitch = 0;  // elements of a step of k
  typename Math::Finish finish;
  int columns = 0, vectors = 0;
};

// The result is stored as Out; a residual in Added is added at the end (null, for all rows, is zero; it may be c).
template <class Out, class Added, class A = Elem>
struct Row {
  const A* a;
  Out* c;
  const Added* residual;
};

template <class Out, class Added, class A>
struct Tile {
  const A* a[kMaxRows];
  Out* c[kMaxRows];
  const Added* residual[kMaxRows];
};

inline constexpr ptrdiff_t kNoOffset = 0;

// The arithmetic of a product: types of A, B and the sums, one step, and what happens to a sum at the end.
struct ElementMath {
  using A = Elem;
  using B = Elem;
  using Partial = float;  // a sum that waits for more of K
  using Sum = Vec;
  using Factor = Operand;
  static constexpr int kGroup = kPair;  // elements of K in one step

  struct Finish {
    const float* bias = nullptr;  // whole vectors; null is zero

    GC_INLINE void begun() { bias = nullptr; }  // what is added once has been added to the partial sums
  };

  static GC_INLINE Sum start(const Finish&, int) { return Vec{}; }
  static GC_INLINE Factor load_b(const Elem* p) { return load_operand(p); }
  static GC_INLINE Factor splat_a(const Elem* p) { return splat_operand(p); }
  static GC_INLINE Sum step(Sum sum, Factor a, Factor b) { return multiply_add(sum, a, b); }

  // Vector n of a row; `lanes` of it exist.
  template <class Out, class Added>
  static GC_INLINE void put(const Finish& f, int n, Sum v, const Added* residual, Out* c, int lanes) {
    if (f.bias != nullptr) v += load(f.bias + n * kLanes);
    if (lanes >= kLanes) {
      if (residual != nullptr) v += load(residual);
      store(c, v);
    } else {
      if (residual != nullptr) v += load_first(residual, lanes);
      store_first(c, v, lanes);
    }
  }
};

using Product = ProductOf<ElementMath>;

template <class Math, int kRows, int kVectors, class Out, class Added>
GC_INLINE void finish_tile(const ProductOf<Math>& p, const Tile<Out, Added, typename Math::A>& t,
                           typename Math::Sum (&sum)[kRows][kVectors]) {
  const int rest = min_of(p.columns - (kVectors - 1) * kLanes, kLanes);
  const bool added = t.residual[0] != nullptr;
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n)
      Math::put(p.finish, n, sum[m][n], added ? t.residual[m] + n * kLanes : nullptr, t.c[m] + n * kLanes,
                n + 1 < kVectors ? kLanes : rest);
  }
}

template <class Math, Layout kLayout, int kRows, int kVectors, class Out, class Added>
__attribute__((noinline)) void tile_product(const ProductOf<Math>& p, const Tile<Out, Added, typename Math::A>& t) {
  constexpr int kGroup = Math::kGroup;
  typename Math::Sum sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) sum[m][n] = Math::start(p.finish, n);
  const typename Math::B* b = p.b;
  const ptrdiff_t b_pitch = p.b_pitch, step = kLayout == Layout::kColumns ? p.a_step : kGroup;
  const ptrdiff_t depth = ceil_div(p.k, kGroup);
  for (int s = 0; s < p.segments; ++s) {
    const typename Math::A* a[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) a[m] = (kLayout == Layout::kRows ? t.a[m] : t.a[0] + m * kGroup) + p.segment[s];
    for (ptrdiff_t k = 0; k < depth; ++k) {
      typename Math::Factor w[kVectors];
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) w[n] = Math::load_b(b + n * kLanes * kGroup);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const typename Math::Factor x = Math::splat_a(a[m] + k * step);
#pragma GCC unroll 4
        for (int n = 0; n < kVectors; ++n) sum[m][n] = Math::step(sum[m][n], x, w[n]);
      }
      b += b_pitch;
    }
  }
  finish_tile<Math, kRows, kVectors, Out, Added>(p, t, sum);
}

template <class Math, Layout kLayout, int kVectors, class Out, class Added>
GC_INLINE void pick_rows(const ProductOf<Math>& p, const Tile<Out, Added, typename Math::A>& t, int rows) {
  if (rows <= half_rows(kVectors))
    tile_product<Math, kLayout, half_rows(kVectors), kVectors, Out, Added>(p, t);
  else
    tile_product<Math, kLayout, full_rows(kVectors), kVectors, Out, Added>(p, t);
}

// One panel of B against `rows` rows of A. `row(m)` gives the addresses of row m as Row<Out, Added>. A last tile that
// is not full repeats its last row into a sink.
template <Layout kLayout, class Out, class Added, class Math, class RowAt>
GC_INLINE void panel_product(const ProductOf<Math>& p, int rows, RowAt row) {
  Out sink[kMaxVectors * kLanes];
  const int full = p.vectors == 1   ? full_rows(1)
                   : p.vectors == 2 ? full_rows(2)
                   : p.vectors == 3 ? full_rows(3)
                                    : full_rows(4);
  for (int first = 0; first < rows; first += full) {
    const int count = rows - first < full ? rows - first : full;
    Tile<Out, Added, typename Math::A> t;
    for (int m = 0; m < count; ++m) {
      const Row<Out, Added, typename Math::A> r = row(first + m);
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
        pick_rows<Math, kLayout, 1, Out, Added>(p, t, count);
        break;
      case 2:
        pick_rows<Math, kLayout, 2, Out, Added>(p, t, count);
        break;
#if defined(__AVX512F__)
      case 3:
        pick_rows<Math, kLayout, 3, Out, Added>(p, t, count);
        break;
      case 4:
        pick_rows<Math, kLayout, 4, Out, Added>(p, t, count);
        break;
#endif
    }
  }
}

GC_INLINE int first_column(int n, int panel) { return panel_at(panel, n, kLanes, kMaxVectors).first * kLanes; }

// Panel `index` of packed weights in a product over one segment of all K.
template <class Math>
GC_INLINE ProductOf<Math> packed_product_of(const Packed& w, int index) {
  const Panel panel = panel_at(index, w.n, kLanes, kMaxVectors);
  ProductOf<Math> p;
  p.segment = &kNoOffset;
  p.k = w.k;
  p.b = static_cast<const typename Math::B*>(w.data) + static_cast<ptrdiff_t>(w.k) * kLanes * panel.first;
  p.b_pitch = panel.vectors * kLanes * Math::kGroup;
  p.columns = min_of(w.n - panel.first * kLanes, panel.vectors * kLanes);
  p.vectors = panel.vectors;
  return p;
}

GC_INLINE Product packed_product(const Packed& w, const float* bias, int index) {
  Product p = packed_product_of<ElementMath>(w, index);
  if (bias != nullptr) p.finish.bias = bias + first_column(w.n, index);
  return p;
}

GC_INLINE int panels_of(int n) { return panel_count(n, kLanes, kMaxVectors); }

}  // namespace
}  // namespace gaitcrafter
