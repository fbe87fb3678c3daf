#include "ops/temporal_conv.h"

#include "ops/layer_norm_row.h"
#include "ops/product.h"
#include "ops/tiling.h"

namespace gaitcrafter {
namespace {

// A tile is a few sites; its scratch holds frames -1 ... F of each, so that the three taps are one run of 3 C elements.
void temporal_conv(const TemporalConv& args, TileRange tiles, std::byte* scratch) {
  const Tensor &in = args.in, &out = args.out;
  const int frames = in.frames, channels = in.channels, sites = static_cast<int>(in.sites());
  const int tile_sites = temporal_conv_sites(channels, frames, sites);
  const ptrdiff_t site_elements = static_cast<ptrdiff_t>(frames + 2) * channels;
  Elem* image = reinterpret_cast<Elem*>(scratch);
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int first = tile * tile_sites, count = min_of(tile_sites, sites - first);
    const ptrdiff_t frame = channels;
    SiteCursor pixels(first, frames, sites);
    for (int s = 0; s < count; ++s) {
      Elem* y = image + s * site_elements;
      for (int f = 1; f <= frames; ++f) layer_norm_row(in.pixel<Elem>(pixels.next()), channels, y + f * frame);
      __builtin_memcpy(y, y + frames * frame, channels * sizeof(Elem));
      __builtin_memcpy(y + (frames + 1) * frame, y + frame, channels * sizeof(Elem));
    }
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      SiteCursor at(first, frames, sites);
      panel_product<Layout::kRows, Elem, Elem>(
          packed_product(args.weight, args.bias, panel), count * frames, [&](int i) {
            const Elem* taps = image + (i + 2 * at.site()) * frame;  // two halo frames per site before this one
            const ptrdiff_t pixel = at.next();
            return Row<Elem, Elem>{taps, out.pixel<Elem>(pixel) + column, in.pixel<Elem>(pixel) + column};
          });
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
