#include "ops/spatial_attention.h"

#include "ops/attention_product.h"

namespace gaitcrafter {
namespace {

void spatial_attention(const SpatialAttention& args, TileRange tiles, std::byte* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const int sites = static_cast<int>(in.sites());
  for (int frame = tiles.begin; frame < tiles.end; ++frame) {
    const SiteCursor tokens(static_cast<ptrdiff_t>(frame) * sites, 1, 1);
    const AttentionTile t = attention_tile(1, sites, in.channels, args.weights, scratch);
    layer_norm_columns(sites, in, tokens, t.row, t.x, t.pitch);
    attend(t, args.weights, nullptr, 0, {nullptr, nullptr, 0, 0});
    project_out(sites, t.output, t.pitch, args.weights.out, nullptr, in, out, tokens);
  }
}

}  // namespace
}  // namespace gaitcrafter
