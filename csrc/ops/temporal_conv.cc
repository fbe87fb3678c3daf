#include "ops/temporal_conv.h"

#include "ops/layer_norm_row.h"
#include "ops/product.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

// A tile is a few sites; its scratch holds frames -1 ... F of each, so that the three taps are one run of 3 C floats.
void temporal_conv(const TemporalConv& args, TileRange tiles, float* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const int frames = in.frames, channels = in.channels, sites = static_cast<int>(in.sites());
  const int tile_sites = temporal_conv_sites(channels, frames, sites);
  const ptrdiff_t site_floats = static_cast<ptrdiff_t>(frames + 2) * channels;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int first = tile * tile_sites, count = min_of(tile_sites, sites - first);
    const ptrdiff_t frame = channels;
    SiteCursor pixels(first, frames, sites);
    for (int s = 0; s < count; ++s) {
      float* y = scratch + s * site_floats;
      for (int f = 1; f <= frames; ++f) layer_norm_row(in.pixel(pixels.next()), channels, y + f * frame);
      __builtin_memcpy(y, y + frames * frame, channels * sizeof(float));
      __builtin_memcpy(y + (frames + 1) * frame, y + frame, channels * sizeof(float));
    }
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      SiteCursor at(first, frames, sites);
      panel_product<Layout::kRows>(packed_product(args.weight, args.bias, panel), count * frames, [&](int i) {
        const float* taps = scratch + (i + 2 * at.site()) * frame;  // two halo frames per site before this one
        const ptrdiff_t pixel = at.next();
        return Row{taps, out.pixel(pixel) + column, in.pixel(pixel) + column};
      });
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
