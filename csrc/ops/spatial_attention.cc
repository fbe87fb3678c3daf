#include "ops/spatial_attention.h"

#if defined(GC_AMX)
#include "ops/amx_attention.h"
#else
#include "ops/attention_product.h"
#endif

namespace gaitcrafter {
namespace {

void spatial_attention(const SpatialAttention& args, TileRange tiles, std::byte* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const int sites = static_cast<int>(in.sites());
  const ProductUnit unit;
  for (int frame = tiles.begin; frame < tiles.end; ++frame) {
    const AttentionTile t = attention_tile(1, sites, in.channels, args.weights, scratch);
    const TokenPlaces places = {static_cast<ptrdiff_t>(frame) * sites, 0, 1};
    load_tokens(t, in, places);
    attend(t, args.weights, nullptr, 0, {});
    project_out(t, args.weights.out, nullptr, in, out, places);
  }
}

}  // namespace
}  // namespace gaitcrafter
