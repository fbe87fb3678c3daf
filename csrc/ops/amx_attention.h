// attention_product.h by tiles of the matrix unit. Sequences begin at multiples of 16 tokens; tokens that only fill up
// are zeros. A product's result becomes the next one's operand as it leaves the tiles, rounded to bfloat16:
//
//   q, v [dim][token] = W x                q as pairs of rows, the B of the scores; v row by row, the A of the output
//   k    [token][dim] = x W                the A of the scores
//   s    [key][query] = bias + k^T q       the sums begin with the bias; softmax runs down the column, as exp2
//   o    [dim][query] = v exp2(s - top)    divided by the sum of the weights; pairs of rows
//   y    [token][C]   = in + o^T W_out     o transposed, pairs as 32-bit numbers
//
// x is needed in both forms, [token][C] as an A and [C / 2][token][2] as a B.
#pragma once

#include "ops/amx_product.h"
#include "ops/layer_norm_row.h"
#include "ops/operands.h"
#include "ops/temporal_attention.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

struct AttentionTile {
  int sequences, channels;
  TileAttentionLayout at;  // for as many sequences, or more
  Elem *x, *x_pairs, *q, *k, *v, *weights, *outputs, *output_rows;
  float* scores;

  GC_INLINE int tokens() const { return sequences * at.slots; }
};

GC_INLINE AttentionTile attention_tile(int sequences, int length, int channels, const AttentionWeights& w,
                                       std::byte* scratch) {
  const TileAttentionLayout l = tile_attention_layout(channels, w.heads, w.dim, sequences, length);
  const auto elements = [&](size_t offset) { return reinterpret_cast<Elem*>(scratch + offset); };
  return {sequences,
          channels,
          l,
          elements(l.x),
          elements(l.x_pairs),
          elements(l.q),
          elements(l.k),
          elements(l.v),
          elements(l.weights),
          elements(l.outputs),
          elements(l.output_rows),
          reinterpret_cast<float*>(scratch + l.scores)};
}

// 16 rows of 16 32-bit numbers, columns become rows.
GC_INLINE void transpose_block(const void* x, ptrdiff_t x_pitch, void* y, ptrdiff_t y_pitch) {
  __m512i a[16], b[16];
  const auto* from = static_cast<const std::byte*>(x);
  auto* to = static_cast<std::byte*>(y);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * x_pitch);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 g + c] has columns c, c + 4, c + 8, c + 12 of rows 4 g to 4 g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88),
                  high01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
    const __m512i low23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88),
                  high23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
    _mm512_storeu_si512(to + c * y_pitch, _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_storeu_si512(to + (4 + c) * y_pitch, _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_storeu_si512(to + (8 + c) * y_pitch, _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_storeu_si512(to + (12 + c) * y_pitch, _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}

GC_INLINE void clear(Elem* x, ptrdiff_t count) { __builtin_memset(x, 0, static_cast<size_t>(count) * sizeof(Elem)); }

// Normalised tokens, in both forms.
GC_INLINE void load_tokens(const AttentionTile& t, const Tensor& in, TokenPlaces places) {
  const TileAttentionLayout& l = t.at;
  for (int s = 0; s < t.sequences; ++s) {
    Elem* rows = t.x + static_cast<ptrdiff_t>(s) * l.slots * l.depth;
    int next = 0;
    layer_norm_rows(
        in, l.length, [&] { return places.pixel(s, next++); }, rows, l.depth);
    if (l.depth > t.channels)
      for (int i = 0; i < l.length; ++i) clear(rows + i * l.depth + t.channels, l.depth - t.channels);
    clear(rows + static_cast<ptrdiff_t>(l.length) * l.depth, static_cast<ptrdiff_t>(l.slots - l.length) * l.depth);
  }
  for (int token = 0; token < t.tokens(); token += 16)
    for (int c = 0; c < l.depth; c += kTileDepth)
      transpose_block(t.x + static_cast<ptrdiff_t>(token) * l.depth + c, l.depth * 2,
                      t.x_pairs + (c / 2 * l.pitch + token) * 2, l.pitch * 4);
}

// Two rows of q or v, vector n of a block.
struct RowPair {
  Vec even, odd;
};

GC_INLINE RowPair row_pair(TileBlock sums, int r, int n) {
  return {block_sum<ElementMath>(sums, r, n), block_sum<ElementMath>(sums, r + 1, n)};
}

// 16 rows of q from a block, from dim `row` and token `column` on.
GC_INLINE void store_q(const AttentionTile& t, TileBlock sums, int from, int row, int column, int vectors,
                       const RotaryTables& rotary) {
  const TileAttentionLayout& l = t.at;
  for (int r = 0; r < kTileRows; r += 2) {
    const int pair = (row + r) / 2;
    Elem* y = t.q + (pair * l.pitch + column) * 2;
    for (int n = 0; n < vectors; ++n) {
      RowPair p = row_pair(sums, from + r, n);
      if (rotary.cos != nullptr && 2 * pair < rotary.dim) {
        const ptrdiff_t at = pair * rotary.pitch + (column + n * kLanes) % l.slots;
        const Vec c = load(rotary.cos + at), s = load(rotary.sin + at);
        p = {p.even * c - p.odd * s, p.odd * c + p.even * s};
      }
      _mm512_storeu_si512(y + n * kLanes * 2, interleave(p.even, p.odd));
    }
  }
}

// q, k and v of one head.
GC_INLINE void project_head(const AttentionTile& t, const Elem* weights, const RotaryTables& rotary) {
  const TileAttentionLayout& l = t.at;
  const int steps = l.depth / kTileDepth;
  const TileOperand qv = {weights, l.depth * 2}, pairs = {t.x_pairs, l.pitch * 4};
  multiply_matrices(qv, 2 * l.rows, pairs, t.tokens(), steps,
                    [&](int row, int rows, int column, int vectors, TileBlock sums) {
                      for (int i = 0; i < rows; i += kTileRows) {
                        if (row + i < l.rows) {
                          store_q(t, sums, i, row + i, column, vectors, rotary);
                          continue;
                        }
                        Elem* y = t.v + (row + i - l.rows) * l.v_pitch + column;
                        for (int r = 0; r < kTileRows; ++r, y += l.v_pitch)
                          for (int n = 0; n < vectors; ++n)
                            store(y + n * kLanes, block_sum<ElementMath>(sums, i + r, n));
                      }
                    });
  const TileOperand x = {t.x, l.depth * 2}, k = {weights + 2 * l.rows * l.depth, l.rows * 4};
  multiply_matrices(x, t.tokens(), k, l.rows, steps, [&](int row, int rows, int column, int vectors, TileBlock sums) {
    for (int r = 0; r < rows; ++r) {
      Elem* y = t.k + static_cast<ptrdiff_t>(row + r) * l.key_depth + column;
      for (int n = 0; n < vectors; ++n) {
        Vec v = block_sum<ElementMath>(sums, r, n);
        if (rotary.cos != nullptr) {
          const ptrdiff_t at = static_cast<ptrdiff_t>((row + r) % l.slots) * l.rows + column + n * kLanes;
          const Vec turned = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
          v = v * load(rotary.cos_lanes + at) + turned * load(rotary.sin_lanes + at);
        }
        store(y + n * kLanes, v);
      }
    }
  });
}

// exp2(s - top) down a column of scores, as pairs of rows, and one over its sum.
GC_INLINE Vec softmax_weights(const float* scores, ptrdiff_t pitch, int rows, Elem* y, ptrdiff_t y_pitch) {
  Vec top[4] = {load(scores), load(scores), load(scores), load(scores)};
  int r = 1;
  for (; r + 4 <= rows; r += 4)
    for (int i = 0; i < 4; ++i) top[i] = maximum(top[i], load(scores + (r + i) * pitch));
  for (; r < rows; ++r) top[0] = maximum(top[0], load(scores + r * pitch));
  const Vec most = maximum(maximum(top[0], top[1]), maximum(top[2], top[3]));
  Vec even_sum = {}, odd_sum = {};
  for (r = 0; r + 2 <= rows; r += 2) {
    const Vec even = exp2(load(scores + r * pitch) - most), odd = exp2(load(scores + (r + 1) * pitch) - most);
    even_sum += even;
    odd_sum += odd;
    _mm512_storeu_si512(y + r / 2 * y_pitch, interleave(even, odd));
  }
  if (r < rows) {
    const Vec even = exp2(load(scores + r * pitch) - most);
    even_sum += even;
    _mm512_storeu_si512(y + r / 2 * y_pitch, interleave(even, Vec{}));
  }
  return splat(1.0f) / (even_sum + odd_sum);
}

// One head of one sequence. `bias` is [key][bias_pitch] or null.
GC_INLINE void attend_sequence(const AttentionTile& t, int dim, int head, int sequence, const float* bias,
                               ptrdiff_t bias_pitch) {
  const TileAttentionLayout& l = t.at;
  const ptrdiff_t token = static_cast<ptrdiff_t>(sequence) * l.slots;
  constexpr int kColumns = kBlockTiles * kTileColumns;
  TileSums s;
  s.a_pitch = l.key_depth * 2;
  s.b_pitch = l.pitch * 4;
  s.segment = &kNoOffset;
  s.steps = l.key_depth / kTileDepth;
  for (int query = 0; query < l.slots; query += kColumns) {
    const int vectors = min_of(kBlockTiles, (l.slots - query) / kTileColumns);
    s.b = reinterpret_cast<const std::byte*>(t.q + (token + query) * 2);
    for (int key = 0; key < l.slots; key += kBlockRows) {
      s.a[0] = reinterpret_cast<const std::byte*>(t.k + (token + key) * l.key_depth);
      s.a[1] = s.a[0] + kTileRows * s.a_pitch;
      if (bias != nullptr) {
        // Sums are read, never written there.
        auto* from = reinterpret_cast<std::byte*>(const_cast<float*>(bias + key * bias_pitch + query));
        s.from = {from, bias_pitch * 4};
      }
      s.to = {reinterpret_cast<std::byte*>(t.scores + key * kColumns), kColumns * 4};
      sum_tiles<ElementMath>(s, min_of(kBlockTiles, (l.slots - key) / kTileRows), vectors);
    }
    Vec inverse[kBlockTiles];
    for (int n = 0; n < vectors; ++n)
      inverse[n] = softmax_weights(t.scores + n * kLanes, kColumns, l.length, t.weights + n * kLanes * 2, kColumns * 2);
    multiply_matrices({t.v + token, l.v_pitch * 2}, l.rows, {t.weights, kColumns * 4}, vectors * kTileColumns,
                      ceil_div(l.length, kTileDepth), [&](int row, int rows, int, int, TileBlock sums) {
                        for (int r = 0; r < rows && row + r < dim; r += 2) {
                          Elem* y = t.outputs + ((head * dim + row + r) / 2 * l.pitch + token + query) * 2;
                          for (int n = 0; n < vectors; ++n) {
                            const RowPair p = row_pair(sums, r, n);
                            _mm512_storeu_si512(y + n * kLanes * 2,
                                                interleave(p.even * inverse[n], p.odd * inverse[n]));
                          }
                        }
                      });
  }
}

// What products read beside what was made for them must be finite: zeros.
GC_INLINE void clear_rests(const AttentionTile& t, int hidden) {
  const TileAttentionLayout& l = t.at;
  clear(t.q + l.rows / 2 * l.pitch * 2, (l.key_depth - l.rows) / 2 * l.pitch * 2);
  if (l.key_depth > l.rows) clear(t.k, static_cast<ptrdiff_t>(t.tokens()) * l.key_depth);
  for (int r = 0; r < l.rows; ++r) clear(t.v + r * l.v_pitch + t.tokens(), kTileDepth);
  clear(t.weights, round_up(l.length, kTileDepth) * kBlockTiles * kTileColumns);
  clear(t.outputs + hidden / 2 * l.pitch * 2, (l.hidden - hidden) / 2 * l.pitch * 2);
}

// The heads' outputs, [hidden / 2][token][2], as [token][hidden].
GC_INLINE void transpose_outputs(const AttentionTile& t) {
  const TileAttentionLayout& l = t.at;
  for (int token = 0; token < t.tokens(); token += 16)
    for (int pair = 0; pair < l.hidden / 2; pair += 16)
      transpose_block(t.outputs + (pair * l.pitch + token) * 2, l.pitch * 4,
                      t.output_rows + static_cast<ptrdiff_t>(token) * l.hidden + pair * 2, l.hidden * 2);
}

// From normalised tokens to the heads' outputs, [token][hidden].
GC_INLINE void attend(const AttentionTile& t, const AttentionWeights& w, const float* bias, ptrdiff_t bias_pitch,
                      const RotaryTables& rotary) {
  const TileAttentionLayout& l = t.at;
  clear_rests(t, w.heads * w.dim);
  for (int head = 0; head < w.heads; ++head) {
    project_head(t, static_cast<const Elem*>(w.qkv) + static_cast<ptrdiff_t>(head) * 3 * l.rows * l.depth, rotary);
    const float* head_bias = bias == nullptr ? nullptr : bias + head * l.slots * bias_pitch;
    for (int s = 0; s < t.sequences; ++s) attend_sequence(t, w.dim, head, s, head_bias, bias_pitch);
  }
  transpose_outputs(t);
}

// out = in + output_rows W (+ bias).
GC_INLINE void project_out(const AttentionTile& t, const Packed& weight, const float* bias, const Tensor& in,
                           const Tensor& out, TokenPlaces places) {
  const TileAttentionLayout& l = t.at;
  for (int panel = 0; panel < panels_of(weight.n); ++panel) {
    const Product p = packed_product(weight, bias, panel);
    const int first = first_column(weight.n, panel), rest = p.columns - (p.vectors - 1) * kLanes;
    multiply_matrices({t.output_rows, l.hidden * 2}, t.tokens(), {p.b, p.vectors * kTileRowBytes},
                      p.vectors * kTileColumns, l.hidden / kTileDepth,
                      [&](int row, int count, int, int vectors, TileBlock sums) {
                        for (int r = 0; r < count; ++r) {
                          const int sequence = (row + r) / l.slots, token = (row + r) % l.slots;
                          if (token >= l.length) continue;
                          const ptrdiff_t pixel = places.pixel(sequence, token);
                          const Elem* added = in.pixel<Elem>(pixel) + first;
                          Elem* y = out.pixel<Elem>(pixel) + first;
                          for (int n = 0; n < vectors; ++n)
                            ElementMath::put(p.finish, n, block_sum<ElementMath>(sums, r, n), added + n * kLanes,
                                             y + n * kLanes, n + 1 < vectors ? kLanes : rest);
                        }
                      });
  }
}

}  // namespace
}  // namespace gaitcrafter
