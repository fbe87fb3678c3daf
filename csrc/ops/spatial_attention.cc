#include "ops/spatial_attention.h"

#include "ops/attention_product.h"

namespace gaitcrafter {
namespace {

void spatial_attention(const SpatialAttention& args, TileRange tiles, float* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const int sites = static_cast<int>(in.sites());
  for (int frame = tiles.begin; frame < tiles.end; ++frame) {
    const ptrdiff_t first = static_cast<ptrdiff_t>(frame) * sites;
    const AttentionTile t = attention_tile(1, sites, in.channels, args.weights, scratch);
    layer_norm_columns(sites, in.channels, [&](int i) { return in.pixel(first + i); }, t.row, t.x, t.pitch);
    attend(t, args.weights, nullptr, 0, {nullptr, nullptr, 0, 0});
    project_out(sites, t.o, t.pitch, args.weights.out, nullptr, [&](int i) { return in.pixel(first + i); },
                [&](int i) { return out.pixel(first + i); });
  }
}

}  // namespace
}  // namespace gaitcrafter
