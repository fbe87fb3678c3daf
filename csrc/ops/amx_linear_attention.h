// Linear attention by tiles of the matrix unit; as spatial_linear_attention.cc has it, with these operands:
//
//   k       [dim][token] = W x           exp2(k - top) row by row, the A of the context
//   v       [token][dim] = x W           pairs of tokens, its B
//   folded  [hidden][C] = context W_out  contexts of all heads on the diagonal of one A; pairs of rows
//   q       [dim][token] = W x           softmax down the column, pairs of rows, transposed: the A of the output
#pragma once

#include "ops/amx_attention.h"
#include "ops/spatial_linear_attention.h"

namespace gaitcrafter {
namespace {

// Of one head: per channel of k its maximum over the tokens so far, then, relative to that, the sum of exp2(k) and the
// context sum exp2(k) v^T.
struct ContextSlot {
  float *top, *sum, *context;  // [rows], [rows], [rows][rows]
};

struct ContextTile {
  AttentionTile t;
  TileLinearLayout at;
  int heads, dim, sites;
  float *contexts, *k_sums;
  Elem *v_pairs, *diagonal, *folded;

  GC_INLINE int hidden() const { return heads * dim; }
  GC_INLINE ContextSlot slot(int head) const {  // of a head, or the tile's own
    const int rows = t.at.rows;
    float* p = contexts + static_cast<ptrdiff_t>(head < 0 ? heads : head) * (rows + 2) * rows;
    return {p, p + rows, p + 2 * rows};
  }
};

GC_INLINE ContextTile context_tile(const SpatialLinearAttention& args, std::byte* scratch) {
  ContextTile c;
  c.heads = args.heads;
  c.dim = args.dim;
  c.sites = static_cast<int>(args.in.sites());
  c.at = tile_linear_layout(args.in.channels, args.heads, args.dim, c.sites);
  c.t = attention_tile(1, c.at.tokens, args.in.channels, {args.heads, args.dim, nullptr, {}}, scratch);
  c.contexts = reinterpret_cast<float*>(scratch + c.at.contexts);
  c.k_sums = reinterpret_cast<float*>(scratch + c.at.k_sums);
  c.v_pairs = reinterpret_cast<Elem*>(scratch + c.at.v_pairs);
  c.diagonal = reinterpret_cast<Elem*>(scratch + c.at.diagonal);
  c.folded = reinterpret_cast<Elem*>(scratch + c.at.folded);
  return c;
}

// Token tile `tile` of a frame as the one sequence of the tile.
GC_INLINE TokenPlaces enter_tile(ContextTile& c, const Tensor& in, int frame, int tile) {
  const int first = tile * c.at.tokens;
  c.t.at.length = min_of(c.at.tokens, c.sites - first);
  c.t.at.slots = round_up(c.t.at.length, kTileRows);
  const TokenPlaces places = {static_cast<ptrdiff_t>(frame) * c.sites + first, 0, 1};
  load_tokens(c.t, in, places);
  return places;
}

// exp2(k - max) of one row over the tile's tokens, rounded; zeros after them.
GC_INLINE void exponentials(const float* k, int tokens, int padded, Elem* y, float* top, float* sum) {
  Vec most = load_first(k, min_of(tokens, kLanes));
  if (tokens < kLanes) {
    const Vec first = splat(k[0]);
    most = (Vec)_mm512_mask_mov_ps((__m512)first, static_cast<__mmask16>((1u << tokens) - 1), (__m512)most);
  }
  for (int i = kLanes; i + kLanes <= tokens; i += kLanes) most = maximum(most, load(k + i));
  if (tokens > kLanes) most = maximum(most, load(k + tokens - kLanes));
  *top = _mm512_reduce_max_ps((__m512)most);
  Vec total = {};
  int i = 0;
  for (; i + kLanes <= tokens; i += kLanes) {
    const Vec e = exp2(load(k + i) - splat(*top));
    total += e;
    store(y + i, e);
  }
  if (i < tokens) {
    const __mmask16 mask = static_cast<__mmask16>((1u << (tokens - i)) - 1);
    const Vec e = (Vec)_mm512_maskz_mov_ps(mask, (__m512)exp2(load(k + i) - splat(*top)));
    total += e;
    store(y + i, e);
    i += kLanes;
  }
  for (; i < padded; i += kLanes) store(y + i, Vec{});
  *sum = sum_lanes(total);
}

// What one head of a tile of tokens adds to its context.
GC_INLINE void tile_context(const ContextTile& c, const Elem* weights, ContextSlot slot) {
  const TileAttentionLayout& l = c.t.at;
  const int steps = l.depth / kTileDepth, tokens = c.t.tokens(), padded = round_up(tokens, kTileDepth);
  multiply_matrices({weights, l.depth * 2}, l.rows, {c.t.x_pairs, l.pitch * 4}, tokens, steps,
                    [&](int row, int rows, int column, int vectors, TileBlock sums) {
                      for (int r = 0; r < rows; ++r)
                        for (int n = 0; n < vectors; ++n)
                          store(c.k_sums + (row + r) * l.pitch + column + n * kLanes,
                                block_sum<ElementMath>(sums, r, n));
                    });
  for (int r = 0; r < l.rows; ++r)
    exponentials(c.k_sums + r * l.pitch, l.length, padded, c.t.v + r * l.v_pitch, slot.top + r, slot.sum + r);

  const TileOperand v = {weights + static_cast<ptrdiff_t>(l.rows) * l.depth, l.rows * 4};
  multiply_matrices({c.t.x, l.depth * 2}, tokens, v, l.rows, steps,
                    [&](int row, int rows, int column, int vectors, TileBlock sums) {
                      for (int r = 0; r < rows; r += 2) {
                        Elem* y = c.v_pairs + (static_cast<ptrdiff_t>(row + r) / 2 * l.rows + column) * 2;
                        for (int n = 0; n < vectors; ++n) {
                          const RowPair p = row_pair(sums, r, n);
                          _mm512_storeu_si512(y + n * kLanes * 2, interleave(p.even, p.odd));
                        }
                      }
                    });
  clear(c.v_pairs + static_cast<ptrdiff_t>(tokens) * l.rows, static_cast<ptrdiff_t>(padded - tokens) * l.rows);
  multiply_matrices({c.t.v, l.v_pitch * 2}, l.rows, {c.v_pairs, l.rows * 4}, l.rows, padded / kTileDepth,
                    [&](int row, int rows, int column, int vectors, TileBlock sums) {
                      for (int r = 0; r < rows; ++r)
                        for (int n = 0; n < vectors; ++n)
                          store(slot.context + (row + r) * l.rows + column + n * kLanes,
                                block_sum<ElementMath>(sums, r, n));
                    });
}

// total = total + part, both relative to the larger maximum of the two.
GC_INLINE void join_contexts(int rows, ContextSlot total, ContextSlot part) {
  for (int r = 0; r < rows; ++r) {
    const float top = total.top[r] > part.top[r] ? total.top[r] : part.top[r];
    const Vec old_scale = exp2(splat(total.top[r] - top)), new_scale = exp2(splat(part.top[r] - top));
    total.sum[r] = total.sum[r] * old_scale[0] + part.sum[r] * new_scale[0];
    total.top[r] = top;
    float *x = total.context + r * rows, *y = part.context + r * rows;
    for (int e = 0; e < rows; e += kLanes) store(x + e, load(x + e) * old_scale + load(y + e) * new_scale);
  }
}

// The contexts of a frame, every head's in its rows and columns of the diagonal: context / sum * dim^-0.5.
GC_INLINE void frame_contexts(ContextTile& c, const SpatialLinearAttention& args, int frame) {
  const TileAttentionLayout& l = c.t.at;
  const ptrdiff_t head_weights = 2 * static_cast<ptrdiff_t>(l.rows) * l.depth;
  for (int tile = 0; tile < c.at.tiles; ++tile) {
    enter_tile(c, args.in, frame, tile);
    for (int head = 0; head < c.heads; ++head) {
      const Elem* weights = static_cast<const Elem*>(args.kv) + head * head_weights;
      tile_context(c, weights, c.slot(tile == 0 ? head : -1));
      if (tile > 0) join_contexts(l.rows, c.slot(head), c.slot(-1));
    }
  }
  clear(c.diagonal, static_cast<ptrdiff_t>(round_up(c.hidden(), kTileRows)) * l.hidden);
  const float root = __builtin_sqrtf(static_cast<float>(c.dim));
  for (int head = 0; head < c.heads; ++head) {
    const ContextSlot slot = c.slot(head);
    for (int d = 0; d < c.dim; ++d) {
      Elem* y = c.diagonal + static_cast<ptrdiff_t>(head * c.dim + d) * l.hidden + head * c.dim;
      const Vec scale = splat(1.0f / (slot.sum[d] * root));
      for (int e = 0; e < c.dim; e += kLanes)
        store_first(y + e, load(slot.context + d * l.rows + e) * scale, min_of(kLanes, c.dim - e));
    }
  }
}

// folded = diagonal W_out, packed like W_out.
GC_INLINE Packed fold_contexts(const ContextTile& c, const Packed& weight) {
  const TileAttentionLayout& l = c.t.at;
  const int rows = round_up(c.hidden(), kTileRows);
  for (int panel = 0; panel < panels_of(weight.n); ++panel) {
    const Product p = packed_product(weight, nullptr, panel);
    const int width = p.vectors * kLanes;
    Elem* folded = c.folded + static_cast<ptrdiff_t>(l.hidden) * first_column(weight.n, panel);
    multiply_matrices({c.diagonal, l.hidden * 2}, rows, {p.b, width * 4}, width, l.hidden / kTileDepth,
                      [&](int row, int count, int, int vectors, TileBlock sums) {
                        for (int r = 0; r < count; r += 2)
                          for (int n = 0; n < vectors; ++n) {
                            const RowPair pair = row_pair(sums, r, n);
                            _mm512_storeu_si512(folded + (row + r) * width + n * kLanes * 2,
                                                interleave(pair.even, pair.odd));
                          }
                      });
    clear(folded + static_cast<ptrdiff_t>(rows) * width, static_cast<ptrdiff_t>(l.hidden - rows) * width);
  }
  return {c.folded, l.hidden, weight.n};
}

// Softmax over the channels of q, as pairs of rows at their head's place in the outputs.
GC_INLINE void tile_queries(const ContextTile& c, const Elem* weights, int head) {
  const TileAttentionLayout& l = c.t.at;
  TileSums s;
  s.a_pitch = l.depth * 2;
  s.b_pitch = l.pitch * 4;
  s.segment = &kNoOffset;
  s.steps = l.depth / kTileDepth;
  for (int token = 0; token < c.t.tokens(); token += kBlockTiles * kTileColumns) {
    const int vectors = min_of(kBlockTiles, (c.t.tokens() - token) / kTileColumns);
    s.b = reinterpret_cast<const std::byte*>(c.t.x_pairs + token * 2);
    for (int row = 0; row < l.rows; row += kBlockRows) {
      s.a[0] = reinterpret_cast<const std::byte*>(weights + static_cast<ptrdiff_t>(row) * l.depth);
      s.a[1] = s.a[0] + kTileRows * s.a_pitch;
      s.to = {reinterpret_cast<std::byte*>(c.k_sums) + row * kBlockPitch, kBlockPitch};
      sum_tiles<ElementMath>(s, min_of(kBlockTiles, (l.rows - row) / kTileRows), vectors);
    }
    for (int n = 0; n < vectors; ++n) {
      float* q = c.k_sums + n * kLanes;
      constexpr ptrdiff_t kPitch = kBlockPitch / 4;
      Vec top = load(q);
      for (int d = 1; d < c.dim; ++d) top = maximum(top, load(q + d * kPitch));
      Vec sum = {};
      for (int d = 0; d < c.dim; ++d) {
        const Vec e = exp2(load(q + d * kPitch) - top);
        sum += e;
        store(q + d * kPitch, e);
      }
      const Vec scale = splat(1.0f) / sum;
      for (int d = 0; d < c.dim; d += 2) {
        Elem* y = c.t.outputs + ((head * c.dim + d) / 2 * l.pitch + token + n * kLanes) * 2;
        _mm512_storeu_si512(y, interleave(load(q + d * kPitch) * scale, load(q + (d + 1) * kPitch) * scale));
      }
    }
  }
}

void spatial_linear_attention(const SpatialLinearAttention& args, TileRange frames, std::byte* scratch) {
  const ProductUnit unit;
  ContextTile c = context_tile(args, scratch);
  const ptrdiff_t head_weights = static_cast<ptrdiff_t>(c.t.at.rows) * c.t.at.depth;
  clear(c.t.outputs + c.hidden() / 2 * c.t.at.pitch * 2, (c.t.at.hidden - c.hidden()) / 2 * c.t.at.pitch * 2);
  for (int frame = frames.begin; frame < frames.end; ++frame) {
    frame_contexts(c, args, frame);
    const Packed folded = fold_contexts(c, args.out_weight);
    for (int tile = 0; tile < c.at.tiles; ++tile) {
      const TokenPlaces places = enter_tile(c, args.in, frame, tile);
      for (int head = 0; head < c.heads; ++head)
        tile_queries(c, static_cast<const Elem*>(args.q) + head * head_weights, head);
      transpose_outputs(c.t);
      project_out(c.t, folded, args.bias, args.in, args.out, places);
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
