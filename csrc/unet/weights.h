// Weights of a package in the layouts that the ops read (ops/packing.h).
#pragma once

#include <algorithm>
#include <string>

#include "model/package.h"
#include "ops/aligned.h"
#include "ops/op_table.h"

namespace gaitcrafter {

// Shape of the weight panels of one instruction set.
struct PanelShape {
  int lanes, max_vectors;
};

struct PackedWeights {
  AlignedFloats data;
  int k = 0, n = 0;
  Packed view() const { return {data.data(), k, n}; }
};

// `value(k, n)` in column panels; columns past n are zero.
template <class ValueAt>
PackedWeights pack_matrix(PanelShape shape, int k, int n, ValueAt value) {
  PackedWeights packed;
  packed.k = k;
  packed.n = n;
  packed.data = AlignedFloats(static_cast<size_t>(k) * static_cast<size_t>(round_up(n, shape.lanes)));
  float* out = packed.data.data();
  for (int p = 0; p < panel_count(n, shape.lanes, shape.max_vectors); ++p) {
    const Panel panel = panel_at(p, n, shape.lanes, shape.max_vectors);
    const int first = panel.first * shape.lanes, width = panel.vectors * shape.lanes;
    for (int row = 0; row < k; ++row, out += width)
      for (int c = 0; c < std::min(width, n - first); ++c) out[c] = value(row, first + c);
  }
  return packed;
}

// A vector padded with zeros to whole vectors.
AlignedFloats padded_vector(const TensorView& vector);

// [out, in, kernel, kernel] with K = [channel block][ky][kx][channel].
PackedWeights pack_conv(PanelShape shape, const TensorView& weight);

// [out, in, 3, 3] as 16 matrices G g G^T, [row][column], each packed with K = in (ops/winograd.h).
PackedWeights pack_winograd(PanelShape shape, const TensorView& weight);

// Phase 2 * (y & 1) + (x & 1) of a transposed convolution [in, out, 4, 4]; see ops/conv_transpose2d.h.
PackedWeights pack_transposed_phase(PanelShape shape, const TensorView& weight, int phase);

// [out, in] (or [out, in, 1, 1]) with K = in.
PackedWeights pack_linear(PanelShape shape, const TensorView& weight);

// [out, in, 3] with K = [tap][in], times gamma[in].
PackedWeights pack_temporal_conv(PanelShape shape, const TensorView& weight, const TensorView& gamma);

// to_qkv [3 * heads * dim, C] as [head][q, k, v][dim][C], times gamma[C], q also times dim^-0.5.
AlignedFloats arrange_qkv(const TensorView& to_qkv, const TensorView& gamma, int heads);

// The q rows of to_qkv, [heads * dim][C], times gamma.
AlignedFloats arrange_linear_q(const TensorView& to_qkv, const TensorView& gamma);

// Per head a packed C x 2 dim_padded matrix: k, then v; times gamma.
AlignedFloats arrange_linear_kv(PanelShape shape, const TensorView& to_qkv, const TensorView& gamma, int heads);

// T5's relative position bias [buckets, heads] as [head][key][pitch], queries side by side.
AlignedFloats position_bias(const TensorView& table, int frames, int max_distance, int pitch);

// cos and sin [rotary_dim / 2][pitch] of the angles of token t's frame, t mod frames.
struct RotaryTables {
  AlignedFloats cos, sin;
  int pitch = 0;
};
RotaryTables rotary_tables(int frames, int rotary_dim, int tokens);

}  // namespace gaitcrafter
