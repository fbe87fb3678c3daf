#include "ops/conv2d.h"

#include "ops/channel_moments.h"
#include "ops/conv_product.h"

namespace gaitcrafter {
namespace {

void conv2d(const Conv2d& args, TileRange tiles, float* scratch) {
  const ConvGrid& g = args.grid;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const ConvWindow w = conv_window(g, tile);
    fill_image(args.in, g, w, scratch);
    const ptrdiff_t corner = (static_cast<ptrdiff_t>(w.frame) * g.height + w.row) * g.width;
    const WindowProduct window{g.kernel, g.kernel, 0, 0, args.weight, args.bias};
    // A tile's pixels follow each other in the output too: bands are whole rows, several frames are whole frames.
    window_product(g, w, window, scratch, [&](const PixelCursor& p) {
      return args.out.pixel(corner + (static_cast<ptrdiff_t>(p.frame()) * g.height + p.row()) * g.width + p.column());
    });
    if (args.out.statistics != nullptr) tile_moments(args.out, g, w);
  }
}

}  // namespace
}  // namespace gaitcrafter
