#include "ops/spatial_linear_attention.h"

#include "ops/attention_product.h"
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
  float *slots, *x, *kv, *columns, *q, *folded, *row;

  GC_INLINE ContextSlot slot(int tile, int head) const {
    float* p = slots + (static_cast<ptrdiff_t>(tile) * heads + head) * (dim + 2) * dim_padded;
    return {p, p + dim_padded, p + 2 * dim_padded};
  }
  GC_INLINE int first(int tile) const { return tile * tokens; }
  GC_INLINE int count(int tile) const { return min_of(tokens, sites - tile * tokens); }
};

GC_INLINE Frame make_frame(const SpatialLinearAttention& args, float* scratch) {
  Frame f;
  f.channels = args.in.channels;
  f.heads = args.heads;
  f.dim = args.dim;
  f.dim_padded = round_up(args.dim, kLanes);
  f.sites = static_cast<int>(args.in.sites());
  f.tokens = linear_attention_tokens(f.channels, f.heads, f.dim, f.sites);
  f.tiles = ceil_div(f.sites, f.tokens);
  f.pitch = token_pitch(f.tokens);
  f.slots = scratch;
  f.x = f.slots + static_cast<ptrdiff_t>(f.tiles) * f.heads * (f.dim + 2) * f.dim_padded;
  f.kv = f.x + static_cast<ptrdiff_t>(f.tokens) * f.channels;
  f.columns = f.kv + static_cast<ptrdiff_t>(f.tokens) * 2 * f.dim_padded;
  f.q = f.columns + f.channels * f.pitch;
  f.folded = f.q + static_cast<ptrdiff_t>(f.heads) * f.dim * f.pitch;
  f.row = f.folded + static_cast<ptrdiff_t>(f.heads) * f.dim * round_up(f.channels, kLanes);
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
GC_INLINE void tile_context(const float* kv, ptrdiff_t pitch, int tokens, const Frame& f, ContextSlot slot) {
  for (int panel = 0; panel < panels_of(f.dim); ++panel) {
    const Panel at = panel_at(panel, f.dim, kLanes, kMaxVectors);
    Product p;
    p.segment = &kNoOffset;
    p.k = tokens;
    p.a_step = pitch;
    p.b = kv + f.dim_padded + at.first * kLanes;
    p.b_pitch = pitch;
    p.vectors = at.vectors;
    p.columns = at.vectors * kLanes;
    panel_product<Layout::kColumns>(p, f.dim, [&](int d) {
      return Row{kv + d, slot.context + static_cast<ptrdiff_t>(d) * f.dim_padded + at.first * kLanes, nullptr};
    });
  }
}

void frame_contexts(const SpatialLinearAttention& args, const Frame& f, int frame) {
  const int width = 2 * f.dim_padded;
  for (int tile = 0; tile < f.tiles; ++tile) {
    const int tokens = f.count(tile);
    const ptrdiff_t first = static_cast<ptrdiff_t>(frame) * f.sites + f.first(tile);
    for (int i = 0; i < tokens; ++i)
      layer_norm_row(args.in.pixel(first + i), f.channels, f.x + static_cast<ptrdiff_t>(i) * f.channels);
    for (int head = 0; head < f.heads; ++head) {
      const Packed weight{args.kv + static_cast<ptrdiff_t>(head) * f.channels * width, f.channels, width};
      for (int panel = 0; panel < panels_of(width); ++panel) {
        const int column = first_column(width, panel);
        panel_product<Layout::kRows>(packed_product(weight, nullptr, panel), tokens, [&](int i) {
          return Row{f.x + static_cast<ptrdiff_t>(i) * f.channels, f.kv + static_cast<ptrdiff_t>(i) * width + column,
                     nullptr};
        });
      }
      const ContextSlot slot = f.slot(tile, head);
      exponentials(f.kv, width, tokens, f.dim, slot);
      tile_context(f.kv, width, tokens, f, slot);
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
void fold_contexts(const SpatialLinearAttention& args, const Frame& f) {
  const ptrdiff_t depth = static_cast<ptrdiff_t>(f.heads) * f.dim;
  for (int panel = 0; panel < panels_of(f.channels); ++panel) {
    const Product whole = packed_product(args.out_weight, nullptr, panel);
    float* base = f.folded + depth * first_column(f.channels, panel);
    for (int head = 0; head < f.heads; ++head) {
      Product p = whole;
      p.k = f.dim;
      p.b = whole.b + static_cast<ptrdiff_t>(head) * f.dim * whole.b_pitch;
      p.columns = p.vectors * kLanes;
      const ContextSlot slot = f.slot(0, head);
      panel_product<Layout::kRows>(p, f.dim, [&](int d) {
        return Row{slot.context + static_cast<ptrdiff_t>(d) * f.dim_padded,
                   base + (static_cast<ptrdiff_t>(head) * f.dim + d) * whole.b_pitch, nullptr};
      });
    }
  }
}

void apply_contexts(const SpatialLinearAttention& args, const Frame& f, int frame) {
  const Packed folded{f.folded, f.heads * f.dim, f.channels};
  for (int tile = 0; tile < f.tiles; ++tile) {
    const int tokens = f.count(tile);
    const SiteCursor cursor(static_cast<ptrdiff_t>(frame) * f.sites + f.first(tile), 1, 1);
    layer_norm_columns(tokens, args.in, cursor, f.row, f.columns, f.pitch);
    times_tokens(args.q, f.heads * f.dim, f.channels, f.columns, tokens, f.pitch, f.q);
    for (int head = 0; head < f.heads; ++head)
      softmax_columns(f.q + static_cast<ptrdiff_t>(head) * f.dim * f.pitch, f.dim, f.pitch, ceil_div(tokens, kLanes));
    project_out(tokens, f.q, f.pitch, folded, args.bias, args.in, args.out, cursor);
  }
}

void spatial_linear_attention(const SpatialLinearAttention& args, TileRange frames, float* scratch) {
  const Frame f = make_frame(args, scratch);
  for (int frame = frames.begin; frame < frames.end; ++frame) {
    frame_contexts(args, f, frame);
    for (int head = 0; head < f.heads; ++head) join_contexts(f, head);
    fold_contexts(args, f);
    apply_contexts(args, f, frame);
  }
}

}  // namespace
}  // namespace gaitcrafter
