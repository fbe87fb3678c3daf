// Weights of a package in the layouts that the ops read (ops/packing.h).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "model/package.h"
#include "ops/op_table.h"
#include "unet/weight_store.h"

namespace gaitcrafter {

// How one op table wants its weights, and where they are kept.
struct Packer {
  WeightStore& store;
  OperandType element;
  int lanes, max_vectors;  // of a panel

  Packer(WeightStore& to, const OpTable& ops)
      : store(to), element(ops.operand()), lanes(ops.lanes), max_vectors(ops.max_vectors) {}
  int pair() const { return pair_of(element.type); }
  int unit() const { return element.unit(); }
};

inline void put(float& y, float x) { y = x; }
inline void put(Bf16& y, float x) { assign(y, x); }
inline void put(int8_t& y, float x) { y = static_cast<int8_t>(std::lrint(x)); }

// Calls work with `memory` as a pointer to the elements that weights of that type are stored as.
template <class Work>
void as_elements(void* memory, DType element, Work work) {
  if (element == DType::kF32)
    work(static_cast<float*>(memory));
  else if (element == DType::kBf16)
    work(static_cast<Bf16*>(memory));
  else
    work(static_cast<int8_t*>(memory));
}

// `count` matrices of k x n in column panels (ops/packing.h), one after the other. `row(k, matrix)` gives a function of
// n: what a row's values have in common is worked out once. k is a multiple of packer.pair(); columns past n are zero.
template <class RowOf>
Packed pack_matrices(const Packer& packer, int count, int k, int n, RowOf row) {
  const size_t elements = static_cast<size_t>(count) * k * round_up(n, packer.lanes);
  const int pair = packer.pair();
  const auto fill = [&](auto* out) {
    for (int matrix = 0; matrix < count; ++matrix)
      for (int p = 0; p < panel_count(n, packer.lanes, packer.max_vectors); ++p) {
        const Panel panel = panel_at(p, n, packer.lanes, packer.max_vectors);
        const int first = panel.first * packer.lanes, width = panel.vectors * packer.lanes;
        const int used = min_of(n - first, width);
        for (int step = 0; step < k; step += pair, out += pair * width)
          for (int i = 0; i < pair; ++i) {
            const auto value = row(step + i, matrix);
            for (int c = 0; c < used; ++c) put(out[c * pair + i], value(first + c));
            for (int c = used; c < width; ++c) put(out[c * pair + i], 0.0f);
          }
      }
  };
  const void* data = packer.store.array(elements * bytes_of(packer.element.type),
                                        [&](void* memory) { as_elements(memory, packer.element.type, fill); });
  return {data, k, n};
}

// A tensor as it is.
const float* copy_of(WeightStore& store, const TensorView& tensor);

// A matrix of rows of `channels` values padded with zeros to whole vectors; `planes`: [channels, ...], turned round.
const float* rows_of(const Packer& packer, const TensorView& matrix, int channels, bool planes);

// A vector padded with zeros to whole vectors.
const float* padded_vector(const Packer& packer, const TensorView& vector);

// [out, in, kernel, kernel] with K = [channel block][ky][kx][channel], every ky, or every tap (conv_taps_apart), padded
// to whole units.
Packed pack_conv(const Packer& packer, const TensorView& weight);

// [out, in, kernel, kernel] as 8-bit integers, and what goes with them (ops/conv2d.h), for inputs in low[in] ..
// high[in].
struct QuantisedConv {
  Packed weight;
  Quantised arrays;
};
// A sum of products of a byte and a weight of at most 127 fits an int32 up to this many input channels of a 3x3 window.
inline constexpr int kMaxQuantisedChannels = INT32_MAX / (9 * 255 * 127);
QuantisedConv pack_quantised_conv(const Packer& packer, const TensorView& weight, const TensorView& low,
                                  const TensorView& high);

// [out, in, 3, 3] as 16 matrices G g G^T, [row][column], each packed with K = in (ops/winograd.h).
Packed pack_winograd(const Packer& packer, const TensorView& weight);

// Phase 2 * (y & 1) + (x & 1) of a transposed convolution [in, out, 4, 4]; see ops/conv_transpose2d.h.
Packed pack_transposed_phase(const Packer& packer, const TensorView& weight, int phase);

// [out, in] (or [out, in, 1, 1]) with K = in, padded to whole units.
Packed pack_linear(const Packer& packer, const TensorView& weight);

// [out, in, 3] with K = [tap][in], times gamma[in]; for tiles every tap padded to whole units.
Packed pack_temporal_conv(const Packer& packer, const TensorView& weight, const TensorView& gamma);

// to_qkv [3 * heads * dim, C] as [head][q, k, v][dim][C], times gamma[C], q also times dim^-0.5. For tiles of the
// matrix unit [head][q and v [rows][depth], k [depth / 2][rows][2]], dim and C padded to whole tiles, q times log2(e)
// besides.
const void* arrange_qkv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads);

// The q rows of to_qkv, [heads * dim][C], times gamma. For tiles [heads][rows][depth], times log2(e).
const void* arrange_linear_q(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads);

// Per head a packed C x 2 dim_padded matrix: k, then v; times gamma. For tiles [head][k [rows][depth], v
// [depth / 2][rows][2]], k times log2(e).
const void* arrange_linear_kv(const Packer& packer, const TensorView& to_qkv, const TensorView& gamma, int heads);

// T5's relative position bias [buckets, heads] as [head][key][frames in whole vectors], queries side by side. For tiles
// keys fill vectors too, and the bias is times log2(e).
const float* position_bias(const Packer& packer, const TensorView& table, int frames, int max_distance);

// For the tokens of `sequences` sequences, frame by frame, or, by tiles, of one (RotaryTables).
RotaryTables rotary_tables(const Packer& packer, int frames, int rotary_dim, int dim, int sequences);

}  // namespace gaitcrafter
