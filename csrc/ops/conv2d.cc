#include "ops/conv2d.h"

#include "ops/channel_moments.h"
#include "ops/conv_product.h"
#include "ops/winograd.h"

namespace gaitcrafter {
namespace {

void direct_product(const Conv2d& args, const ConvWindow& w, const float* image) {
  const ConvGrid& g = args.grid;
  const ptrdiff_t corner = (static_cast<ptrdiff_t>(w.frame) * g.height + w.row) * g.width;
  const WindowProduct window{g.kernel, g.kernel, 0, 0, args.weight, args.bias};
  window_product(g, w, window, image, [&](const PixelCursor& p) {
    return args.out.pixel(corner + (static_cast<ptrdiff_t>(p.frame()) * g.height + p.row()) * g.width + p.column());
  });
}

void conv2d(const Conv2d& args, TileRange tiles, float* scratch) {
  const ConvGrid& g = args.grid;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const ConvWindow w = conv_window(g, tile);
    fill_image(args.in, g, w, scratch);
    if (g.winograd())
      winograd_product(args, w, scratch);
    else
      direct_product(args, w, scratch);
    if (args.out.statistics != nullptr) tile_moments(args.out, g, w);
  }
}

}  // namespace
}  // namespace gaitcrafter
