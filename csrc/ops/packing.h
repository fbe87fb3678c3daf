// How weights lie in memory: the K x N matrix of a product as column panels of a few vectors, each panel K rows long.
// Where an instruction multiplies pairs (bfloat16) or fours (int8), as many rows of K lie interleaved:
// [k / 4][column][k % 4].
#pragma once

#include <cstddef>

#include "ops/tensor.h"

namespace gaitcrafter {

// Columns of one panel, in vectors. Panels are balanced: 6 vectors at 4 per panel are 3 + 3.
struct Panel {
  int first = 0, vectors = 0;
};

GC_INLINE int panel_count(int n, int lanes, int max_vectors) { return ceil_div(ceil_div(n, lanes), max_vectors); }

GC_INLINE Panel panel_at(int index, int n, int lanes, int max_vectors) {
  const int vectors = ceil_div(n, lanes), panels = panel_count(n, lanes, max_vectors);
  const int first = static_cast<int>(static_cast<ptrdiff_t>(index) * vectors / panels);
  const int last = static_cast<int>(static_cast<ptrdiff_t>(index + 1) * vectors / panels);
  return {first, last - first};
}

// Packed weights as the ops see them, in the element type of the op table. Panel p starts at data + k * lanes * (its
// first vector). K is a multiple of pair_of.
struct Packed {
  const void* data = nullptr;
  int k = 0, n = 0;
};

}  // namespace gaitcrafter
