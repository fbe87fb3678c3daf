#include "ops/temporal_attention.h"

#if defined(GC_AMX)
#include "ops/amx_attention.h"
#else
#include "ops/attention_product.h"
#endif
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

// A tile is a few neighbouring sites with all their frames.
void temporal_attention(const TemporalAttention& args, TileRange tiles, std::byte* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const AttentionWeights& w = args.weights;
  const int frames = in.frames, sites = static_cast<int>(in.sites());
  const int tile_sites = temporal_attention_sites({kElem, kTiles}, in.channels, w.heads, w.dim, frames, sites);
  const ProductUnit unit;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int first = tile * tile_sites, count = min_of(tile_sites, sites - first);
    const AttentionTile t = attention_tile(count, frames, in.channels, w, scratch);
    const TokenPlaces places = {first, 1, sites};
    load_tokens(t, in, places);
    attend(t, w, args.bias, args.bias_pitch, args.rotary);
    project_out(t, w.out, nullptr, in, out, places);
  }
}

}  // namespace
}  // namespace gaitcrafter
