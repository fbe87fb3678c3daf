#include "ops/conv2d.h"

#include "ops/channel_moments.h"
#include "ops/conv_product.h"
#if !defined(GC_BF16)
#include "ops/winograd.h"
#endif

namespace gaitcrafter {
namespace {

void direct_product(const Conv2d& args, const ConvWindow& w, const Elem* image, float* partial) {
  const ConvGrid& g = args.grid;
  const ptrdiff_t corner = (static_cast<ptrdiff_t>(w.frame) * g.height + w.row) * g.width;
  const WindowProduct window{g.kernel, g.kernel, 0, 0, args.weight, args.bias};
  window_product(g, w, window, image, partial, [&](const PixelCursor& p) {
    return args.out.pixel<Elem>(corner + (static_cast<ptrdiff_t>(p.frame()) * g.height + p.row()) * g.width +
                                p.column());
  });
}

void conv2d(const Conv2d& args, TileRange tiles, std::byte* scratch) {
  const ConvGrid& g = args.grid;
  Elem* image = reinterpret_cast<Elem*>(scratch);
  float* sums = reinterpret_cast<float*>(scratch + g.image_bytes);
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const ConvWindow w = conv_window(g, tile);
    fill_image(args.in, g, w, image);
#if !defined(GC_BF16)
    if (g.winograd())
      winograd_product(args, w, image, sums);
    else
#endif
      direct_product(args, w, image, sums);
    if (args.out.statistics != nullptr) tile_moments(args.out, g, w);
  }
}

}  // namespace
}  // namespace gaitcrafter
