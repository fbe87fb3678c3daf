#include "ops/temporal_conv.h"

#include "ops/layer_norm_row.h"
#include "ops/product.h"
#include "ops/tiling.h"
#if defined(GC_AMX)
#include "ops/amx_product.h"
#endif

namespace gaitcrafter {
namespace {

#if defined(GC_AMX)

// A tile is a few sites; its scratch holds frames -1 ... F of all of them, frame by frame, so that the tokens lie at
// one distance.
void convolve_sites(const TemporalConv& args, int first, int count, Elem* image) {
  const Tensor &in = args.in, &out = args.out;
  const int frames = in.frames, channels = in.channels;
  const ptrdiff_t frame = static_cast<ptrdiff_t>(count) * channels, pixel = channels * 2;
  for (int f = 0; f < frames; ++f) {
    ptrdiff_t at = f * in.sites() + first;
    layer_norm_rows(
        in, count, [&] { return at++; }, image + (f + 1) * frame, channels);
  }
  __builtin_memcpy(image, image + frames * frame, static_cast<size_t>(frame) * sizeof(Elem));
  __builtin_memcpy(image + (frames + 1) * frame, image + frame, static_cast<size_t>(frame) * sizeof(Elem));
  __builtin_memset(image + (frames + 2) * frame, 0, static_cast<size_t>(kTileRowBytes));

  alignas(64) std::byte block[kBlockRows * kBlockPitch];
  const ptrdiff_t taps[3] = {0, frame * 2, 2 * frame * 2};
  const int tokens = frames * count;
  for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
    const Product p = packed_product(args.weight, args.bias, panel);
    const int column = first_column(args.weight.n, panel), rest = p.columns - (p.vectors - 1) * kLanes;
    TileSums s;
    s.a_pitch = pixel;
    s.b = reinterpret_cast<const std::byte*>(p.b);
    s.b_pitch = p.vectors * kTileRowBytes;
    s.segment = taps;
    s.segments = 3;
    s.steps = ceil_div(channels, kTileDepth);
    s.to = {block, kBlockPitch};
    for (int token = 0; token < tokens; token += kBlockRows) {
      s.a[0] = reinterpret_cast<const std::byte*>(image) + token * pixel;
      s.a[1] = s.a[0] + kTileRows * pixel;
      sum_tiles<ElementMath>(s, tokens - token > kTileRows ? 2 : 1, p.vectors);
      int f = token / count, site = token % count;
      for (int r = 0; r < min_of(kBlockRows, tokens - token); ++r) {
        const ptrdiff_t at = f * in.sites() + first + site;
        const Elem* added = in.pixel<Elem>(at) + column;
        Elem* y = out.pixel<Elem>(at) + column;
        for (int n = 0; n < p.vectors; ++n)
          ElementMath::put(p.finish, n, block_sum<ElementMath>(s.to, r, n), added + n * kLanes, y + n * kLanes,
                           n + 1 < p.vectors ? kLanes : rest);
        if (++site == count) {
          site = 0;
          ++f;
        }
      }
    }
  }
}

#else

// A tile is a few sites; its scratch holds frames -1 ... F of each, so that the three taps are one run of 3 C elements.
void convolve_sites(const TemporalConv& args, int first, int count, Elem* image) {
  const Tensor &in = args.in, &out = args.out;
  const int frames = in.frames, channels = in.channels, sites = static_cast<int>(in.sites());
  const ptrdiff_t site_elements = static_cast<ptrdiff_t>(frames + 2) * channels, frame = channels;
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
    panel_product<Layout::kRows, Elem, Elem>(packed_product(args.weight, args.bias, panel), count * frames, [&](int i) {
      const Elem* taps = image + (i + 2 * at.site()) * frame;  // two halo frames per site before this one
      const ptrdiff_t pixel = at.next();
      return Row<Elem, Elem>{taps, out.pixel<Elem>(pixel) + column, in.pixel<Elem>(pixel) + column};
    });
  }
}

#endif

void temporal_conv(const TemporalConv& args, TileRange tiles, std::byte* scratch) {
  const int sites = static_cast<int>(args.in.sites());
  const int tile_sites = temporal_conv_sites(args.in.channels, args.in.frames, sites);
  const ProductUnit unit;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int first = tile * tile_sites;
    convolve_sites(args, first, min_of(tile_sites, sites - first), reinterpret_cast<Elem*>(scratch));
  }
}

}  // namespace
}  // namespace gaitcrafter
