// Softmax attention of sequences whose tokens lie side by side: every matrix is [row][token], so that neither the
// scores nor their softmax need a transposed copy or a sum across lanes. Shared by temporal and spatial attention.
//
//   q, k, v [dim][token] = W x           (weights broadcast, tokens in lanes)
//   scores  [key][query] = k^T q + bias  (keys broadcast, queries in lanes; softmax runs down the column)
//   o       [dim][query] = v scores
//   y       [token][C]   = o^T W_out     (o broadcast, channels in lanes)
//
// In bfloat16 a product's result is fp32; what the next product reads is rounded and put into pairs (operands.h).
//
// Sequences need not fill whole vectors: a product over one sequence also computes the lanes after its end, and the
// next sequence, or nobody, owns them.
#pragma once

#include "ops/layer_norm_row.h"
#include "ops/operands.h"
#include "ops/product.h"
#include "ops/temporal_attention.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

struct AttentionTile {
  int sequences, length;  // tokens of a sequence
  int channels, hidden;
  ptrdiff_t pitch;  // elements from one row to the next; kWidestLanes more than the tokens, at least
  Elem* x;          // [C / kPair][pitch][kPair]
  float* qkv;       // [3 dim][pitch] of one head
  Elem* operands;   // q and k as pairs of rows, v row by row
  Elem* output;     // [heads * dim / kPair][pitch][kPair]
  float* head_output;
  float* scores;
  Elem *weights, *row;

  GC_INLINE int tokens() const { return sequences * length; }
};

constexpr int kScoreVectors = 4;  // queries of one block, at most; scratch is sized for the widest vectors

GC_INLINE AttentionTile attention_tile(int sequences, int length, int channels, const AttentionWeights& w,
                                       std::byte* scratch) {
  const AttentionLayout l = attention_layout(kElem, channels, w.heads, w.dim, sequences * length, length);
  const auto elements = [&](size_t at) { return reinterpret_cast<Elem*>(scratch + at); };
  const auto floats = [&](size_t at) { return reinterpret_cast<float*>(scratch + at); };
  return {sequences,
          length,
          channels,
          w.heads * w.dim,
          l.pitch,
          elements(l.x),
          floats(l.qkv),
          elements(l.operands),
          elements(l.output),
          floats(l.head_output),
          floats(l.scores),
          elements(l.weights),
          elements(l.row)};
}

// c[row][token] = sum_k a[row][k] b[k][token] for whole vectors of tokens.
GC_INLINE void times_tokens(const Elem* a, int rows, int depth, const Elem* b, int tokens, ptrdiff_t pitch, float* c) {
  const int vectors = ceil_div(tokens, kLanes), blocks = ceil_div(vectors, kMaxVectors);
  for (int block = 0; block < blocks; ++block) {
    const int first = vectors * block / blocks, last = vectors * (block + 1) / blocks;
    Product p;
    p.segment = &kNoOffset;
    p.k = depth;
    p.b = b + first * kLanes * kPair;
    p.b_pitch = pitch * kPair;
    p.vectors = last - first;
    p.columns = p.vectors * kLanes;
    panel_product<Layout::kRows, float, float>(p, rows, [&](int r) {
      return Row<float, float>{a + static_cast<ptrdiff_t>(r) * depth, c + r * pitch + first * kLanes, nullptr};
    });
  }
}

// Interleaved pairs of rows (2i, 2i + 1) turned by the angle of their token's frame.
GC_INLINE void rotate(float* x, ptrdiff_t pitch, int tokens, int rotary_dim, const float* cos, const float* sin,
                      ptrdiff_t table_pitch) {
  for (int i = 0; i < rotary_dim / 2; ++i) {
    float *even = x + 2 * i * pitch, *odd = even + pitch;
    for (int t = 0; t < tokens; t += kLanes) {
      const Vec a = load(even + t), b = load(odd + t);
      const Vec c = load(cos + i * table_pitch + t), s = load(sin + i * table_pitch + t);
      store(even + t, a * c - b * s);
      store(odd + t, b * c + a * s);
    }
  }
}

// Softmax down the columns of [rows][pitch].
GC_INLINE void softmax_columns(float* x, int rows, ptrdiff_t pitch, int vectors) {
  for (int n = 0; n < vectors; ++n) {
    float* column = x + n * kLanes;
    Vec top = load(column);
    for (int r = 1; r < rows; ++r) top = maximum(top, load(column + r * pitch));
    Vec sum = {};
    for (int r = 0; r < rows; ++r) {
      const Vec e = exp(load(column + r * pitch) - top);
      sum += e;
      store(column + r * pitch, e);
    }
    const Vec scale = splat(1.0f) / sum;
    for (int r = 0; r < rows; ++r) store(column + r * pitch, load(column + r * pitch) * scale);
  }
}

struct HeadBias {
  const float* data;  // [key][query]; null is none
  ptrdiff_t pitch;
};

// One head of one sequence; q, k, v and o begin at its first token.
GC_INLINE void attend_sequence(const AttentionTile& t, int dim, const Elem* q, const Elem* k, const Elem* v,
                               HeadBias bias, float* o) {
  const int vectors = ceil_div(t.length, kLanes);
  for (int first = 0; first < vectors; first += kMaxVectors) {
    const int count = min_of(kMaxVectors, vectors - first);
    const ptrdiff_t width = count * kLanes;
    Product p;
    p.segment = &kNoOffset;
    p.vectors = count;
    p.columns = static_cast<int>(width);
    p.k = dim;
    p.a_step = t.pitch * kPair;
    p.b = q + first * kLanes * kPair;
    p.b_pitch = t.pitch * kPair;
    panel_product<Layout::kColumns, float, float>(p, t.length, [&](int key) {
      return Row<float, float>{k + key * kPair, t.scores + key * width,
                               bias.data == nullptr ? nullptr : bias.data + key * bias.pitch + first * kLanes};
    });
    softmax_columns(t.scores, t.length, width, count);
    p.k = t.length;
    p.b = pair_rows(t.scores, t.length, width, static_cast<int>(width), t.weights);
    p.b_pitch = width * kPair;
    panel_product<Layout::kRows, float, float>(p, dim, [&](int d) {
      return Row<float, float>{v + d * t.pitch, o + d * t.pitch + first * kLanes, nullptr};
    });
  }
}

// From normalised tokens in t.x to the heads' outputs in t.output. `bias` is [heads][length][bias_pitch] or null.
GC_INLINE void attend(const AttentionTile& t, const AttentionWeights& w, const float* bias, ptrdiff_t bias_pitch,
                      const RotaryTables& rotary) {
  const ptrdiff_t head_rows = 3 * w.dim, part = w.dim * t.pitch;
  const int tokens = t.tokens();
  const int columns = tokens + t.length % kPair;  // an odd sequence pairs its last value with the next token's
  for (int head = 0; head < w.heads; ++head) {
    const Elem* weight = static_cast<const Elem*>(w.qkv) + head * head_rows * t.channels;
    times_tokens(weight, static_cast<int>(head_rows), t.channels, t.x, columns, t.pitch, t.qkv);
    if (rotary.cos != nullptr) {
      rotate(t.qkv, t.pitch, tokens, rotary.dim, rotary.cos, rotary.sin, rotary.pitch);
      rotate(t.qkv + part, t.pitch, tokens, rotary.dim, rotary.cos, rotary.sin, rotary.pitch);
    }
    const Elem* q = pair_rows(t.qkv, w.dim, t.pitch, tokens, t.operands);
    const Elem* k = pair_rows(t.qkv + part, w.dim, t.pitch, tokens, t.operands + part);
    const Elem* v = plain_rows(t.qkv + 2 * part, w.dim, t.pitch, columns, t.operands + 2 * part);
    Elem* output = t.output + head * part;
    float* o = fp32_rows(output, t.head_output);
    const HeadBias head_bias{bias == nullptr ? nullptr : bias + head * t.length * bias_pitch, bias_pitch};
    for (int s = 0; s < t.sequences; ++s) {
      const ptrdiff_t token = static_cast<ptrdiff_t>(s) * t.length;
      attend_sequence(t, w.dim, q + token * kPair, k + token * kPair, v + token, head_bias, o + token);
    }
    pair_rows(o, w.dim, t.pitch, tokens, output);
  }
}

// Normalised tokens as columns of t.x.
GC_INLINE void load_tokens(const AttentionTile& t, const Tensor& in, TokenPlaces places) {
  layer_norm_columns(t.tokens(), in, SiteCursor(places, t.length), t.row, t.x, t.pitch);
}

// out[token] = in[token] + o^T W_out (+ bias), o as [depth / kPair][pitch][kPair].
template <class Cursor>
GC_INLINE void project_tokens(int tokens, const Elem* o, int depth, ptrdiff_t pitch, const Packed& weight,
                              const float* bias, const Tensor& in, const Tensor& out, Cursor start) {
  for (int panel = 0; panel < panels_of(weight.n); ++panel) {
    Product p = packed_product(weight, bias, panel);
    p.k = depth;
    p.a_step = pitch * kPair;
    const int column = first_column(weight.n, panel);
    Cursor cursor = start;
    panel_product<Layout::kColumns, Elem, Elem>(p, tokens, [&](int i) {
      const ptrdiff_t pixel = cursor.next();
      return Row<Elem, Elem>{o + i * kPair, out.pixel<Elem>(pixel) + column, in.pixel<Elem>(pixel) + column};
    });
  }
}

GC_INLINE void project_out(const AttentionTile& t, const Packed& weight, const float* bias, const Tensor& in,
                           const Tensor& out, TokenPlaces places) {
  project_tokens(t.tokens(), t.output, t.hidden, t.pitch, weight, bias, in, out, SiteCursor(places, t.length));
}

}  // namespace
}  // namespace gaitcrafter
