// Linear attention over the sites of a frame by vectors (spatial_linear_attention.h).
#pragma once

#include "ops/attention_product.h"
#include "ops/spatial_linear_attention.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

// What a token tile leaves of one head: per channel of k its maximum over the tokens, then, relative to that,
// the sum of exp(k) and the context sum exp(k) v^T.
struct ContextSlot {
  float *top, *sum, *context;  // [dim_padded], [dim_padded], [dim][dim_padded]
};

struct Frame {
  int sites, tokens, tiles;  // tokens of a tile
  int heads, dim, dim_padded, channels;
  ptrdiff_t pitch;  // of [row][token] matrices
  float *slots, *kv, *q, *folded;
  Elem *x, *kv_operands, *columns, *q_operands, *context, *folded_operands, *row;

  GC_INLINE ContextSlot slot(int tile, int head) const {
    float* p = slots + (static_cast<ptrdiff_t>(tile) * heads + head) * (dim + 2) * dim_padded;
    return {p, p + dim_padded, p + 2 * dim_padded};
  }
  GC_INLINE int first(int tile) const { return tile * tokens; }
  GC_INLINE int count(int tile) const { return min_of(tokens, sites - tile * tokens); }
};

GC_INLINE Frame make_frame(const SpatialLinearAttention& args, std::byte* scratch) {
  Frame f;
  f.channels = args.in.channels;
  f.heads = args.heads;
  f.dim = args.dim;
  f.dim_padded = round_up(args.dim, kLanes);
  f.sites = static_cast<int>(args.in.sites());
  const LinearAttentionLayout l = linear_attention_layout(kElem, f.channels, f.heads, f.dim, f.sites);
  f.tokens = l.tokens;
  f.tiles = l.tiles;
  f.pitch = l.pitch;
  const auto elements = [&](size_t at) { return reinterpret_cast<Elem*>(scratch + at); };
  const auto floats = [&](size_t at) { return reinterpret_cast<float*>(scratch + at); };
  f.slots = floats(l.slots);
  f.kv = floats(l.kv);
  f.q = floats(l.q);
  f.folded = floats(l.folded);
  f.x = elements(l.x);
  f.kv_operands = elements(l.kv_operands);
  f.columns = elements(l.columns);
  f.q_operands = elements(l.q_operands);
  f.context = elements(l.context);
  f.folded_operands = elements(l.folded_operands);
  f.row = elements(l.row);
  return f;
}

// exp(k - max) in place over one tile's k columns; maximum and sum go to the slot.
GC_INLINE void exponentials(float* kv, ptrdiff_t pitch, int tokens, int dim, ContextSlot slot) {
  for (int c = 0; c < dim; c += kLanes) {
    Vec top = load(kv + c);
    for (int i = 1; i < tokens; ++i) top = maximum(top, load(kv + i * pitch + c));
    Vec sum = {};
    for (int i = 0; i < tokens; ++i) {
      const Vec e = exp(load(kv + i * pitch + c) - top);
      sum += e;
      store(kv + i * pitch + c, e);
    }
    store(slot.top + c, top);
    store(slot.sum + c, sum);
  }
}

// slot.context = exp(k)^T v, tokens as the depth of the product.
GC_INLINE void tile_context(const Elem* kv, ptrdiff_t pitch, int tokens, const Frame& f, ContextSlot slot) {
  for (int panel = 0; panel < panels_of(f.dim); ++panel) {
    const Panel at = panel_at(panel, f.dim, kLanes, kMaxVectors);
    Product p;
    p.segment = &kNoOffset;
    p.k = tokens;
    p.a_step = pitch * kPair;
    p.b = kv + (f.dim_padded + at.first * kLanes) * kPair;
    p.b_pitch = pitch * kPair;
    p.vectors = at.vectors;
    p.columns = at.vectors * kLanes;
    panel_product<Layout::kColumns, float, float>(p, f.dim, [&](int d) {
      return Row<float, float>{kv + d * kPair,
                               slot.context + static_cast<ptrdiff_t>(d) * f.dim_padded + at.first * kLanes, nullptr};
    });
  }
}

void frame_contexts(const SpatialLinearAttention& args, const Frame& f, int frame) {
  const int width = 2 * f.dim_padded;
  for (int tile = 0; tile < f.tiles; ++tile) {
    const int tokens = f.count(tile);
    const ptrdiff_t first = static_cast<ptrdiff_t>(frame) * f.sites + f.first(tile);
    for (int i = 0; i < tokens; ++i)
      layer_norm_row(args.in.pixel<Elem>(first + i), f.channels, f.x + static_cast<ptrdiff_t>(i) * f.channels);
    for (int head = 0; head < f.heads; ++head) {
      const Elem* head_weight = static_cast<const Elem*>(args.kv) + static_cast<ptrdiff_t>(head) * f.channels * width;
      const Packed weight{head_weight, f.channels, width};
      for (int panel = 0; panel < panels_of(width); ++panel) {
        const int column = first_column(width, panel);
        panel_product<Layout::kRows, float, float>(packed_product(weight, nullptr, panel), tokens, [&](int i) {
          return Row<float, float>{f.x + static_cast<ptrdiff_t>(i) * f.channels,
                                   f.kv + static_cast<ptrdiff_t>(i) * width + column, nullptr};
        });
      }
      const ContextSlot slot = f.slot(tile, head);
      exponentials(f.kv, width, tokens, f.dim, slot);
      tile_context(pair_rows(f.kv, tokens, width, width, f.kv_operands), width, tokens, f, slot);
    }
  }
}

// Joins the slots of a head into slot 0, in order, and scales it: context / sum * dim^-0.5.
void join_contexts(const Frame& f, int head) {
  const ContextSlot total = f.slot(0, head);
  for (int tile = 1; tile < f.tiles; ++tile) {
    const ContextSlot part = f.slot(tile, head);
    float old_scale[kLanes], new_scale[kLanes];
    for (int c = 0; c < f.dim; c += kLanes) {
      const Vec top = maximum(load(total.top + c), load(part.top + c));
      const Vec a = exp(load(total.top + c) - top), b = exp(load(part.top + c) - top);
      store(total.sum + c, load(total.sum + c) * a + load(part.sum + c) * b);
      store(total.top + c, top);
      store(old_scale, a);
      store(new_scale, b);
      for (int d = c; d < min_of(c + kLanes, f.dim); ++d) {
        float *x = total.context + static_cast<ptrdiff_t>(d) * f.dim_padded,
              *y = part.context + static_cast<ptrdiff_t>(d) * f.dim_padded;
        const Vec keep = splat(old_scale[d - c]), add = splat(new_scale[d - c]);
        for (int e = 0; e < f.dim; e += kLanes) store(x + e, load(x + e) * keep + load(y + e) * add);
      }
    }
  }
  const float root = __builtin_sqrtf(static_cast<float>(f.dim));
  for (int d = 0; d < f.dim; ++d) {
    float* x = total.context + static_cast<ptrdiff_t>(d) * f.dim_padded;
    const Vec scale = splat(1.0f / (total.sum[d] * root));
    for (int e = 0; e < f.dim; e += kLanes) store(x + e, load(x + e) * scale);
  }
}

// folded[head * dim + d][c] = sum_e context[d][e] W_out[c][head * dim + e], laid out in panels like W_out.
GC_INLINE const Elem* fold_contexts(const SpatialLinearAttention& args, const Frame& f) {
  const int depth = f.heads * f.dim;
  for (int panel = 0; panel < panels_of(f.channels); ++panel) {
    const Product whole = packed_product(args.out_weight, nullptr, panel);
    const ptrdiff_t at = static_cast<ptrdiff_t>(depth) * first_column(f.channels, panel);
    const int width = whole.vectors * kLanes;
    for (int head = 0; head < f.heads; ++head) {
      Product p = whole;
      p.k = f.dim;
      p.b = whole.b + static_cast<ptrdiff_t>(head) * f.dim / kPair * whole.b_pitch;
      p.columns = width;
      const Elem* context = plain_rows(f.slot(0, head).context, f.dim, f.dim_padded, f.dim_padded, f.context);
      panel_product<Layout::kRows, float, float>(p, f.dim, [&](int d) {
        return Row<float, float>{context + static_cast<ptrdiff_t>(d) * f.dim_padded,
                                 f.folded + at + (static_cast<ptrdiff_t>(head) * f.dim + d) * width, nullptr};
      });
    }
    pair_rows(f.folded + at, depth, width, width, f.folded_operands + at);
  }
  return kPair > 1 ? f.folded_operands : reinterpret_cast<const Elem*>(f.folded);
}

void apply_contexts(const SpatialLinearAttention& args, const Frame& f, int frame, const Elem* folded) {
  const Packed weight{folded, f.heads * f.dim, f.channels};
  for (int tile = 0; tile < f.tiles; ++tile) {
    const int tokens = f.count(tile);
    const SiteCursor cursor(static_cast<ptrdiff_t>(frame) * f.sites + f.first(tile), 1, 1);
    layer_norm_columns(tokens, args.in, cursor, f.row, f.columns, f.pitch);
    times_tokens(static_cast<const Elem*>(args.q), f.heads * f.dim, f.channels, f.columns, tokens, f.pitch, f.q);
    for (int head = 0; head < f.heads; ++head)
      softmax_columns(f.q + static_cast<ptrdiff_t>(head) * f.dim * f.pitch, f.dim, f.pitch, ceil_div(tokens, kLanes));
    const Elem* q = pair_rows(f.q, f.heads * f.dim, f.pitch, tokens, f.q_operands);
    project_tokens(tokens, q, f.heads * f.dim, f.pitch, weight, args.bias, args.in, args.out, cursor);
  }
}

void spatial_linear_attention(const SpatialLinearAttention& args, TileRange frames, std::byte* scratch) {
  const Frame f = make_frame(args, scratch);
  for (int frame = frames.begin; frame < frames.end; ++frame) {
    frame_contexts(args, f, frame);
    for (int head = 0; head < f.heads; ++head) join_contexts(f, head);
    apply_contexts(args, f, frame, fold_contexts(args, f));
  }
}

}  // namespace
}  // namespace gaitcrafter
