#include "ops/temporal_attention.h"

#include "ops/attention_product.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

// A tile is a few neighbouring sites with all their frames; token = site * frames + frame.
void temporal_attention(const TemporalAttention& args, TileRange tiles, std::byte* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const AttentionWeights& w = args.weights;
  const int frames = in.frames, sites = static_cast<int>(in.sites());
  const int tile_sites = temporal_attention_sites(kElem, in.channels, w.heads, w.dim, frames, sites);
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int first = tile * tile_sites, count = min_of(tile_sites, sites - first);
    const AttentionTile t = attention_tile(count, frames, in.channels, w, scratch);
    const SiteCursor tokens(first, frames, sites);
    layer_norm_columns(t.tokens(), in, tokens, t.row, t.x, t.pitch);
    attend(t, w, args.bias, args.bias_pitch, {args.cos, args.sin, args.rotary_pitch, args.rotary_dim});
    project_out(t.tokens(), t.output, t.pitch, w.out, nullptr, in, out, tokens);
  }
}

}  // namespace
}  // namespace gaitcrafter
