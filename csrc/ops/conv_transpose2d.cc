#include "ops/conv_transpose2d.h"

#if defined(GC_AMX)
#include "ops/amx_conv_product.h"
#else
#include "ops/conv_product.h"
#endif

namespace gaitcrafter {
namespace {

void conv_transpose2d(const ConvTranspose2d& args, TileRange tiles, std::byte* scratch) {
  const ConvGrid& g = args.grid;
  Elem* image = reinterpret_cast<Elem*>(scratch);
  float* partial = reinterpret_cast<float*>(scratch + g.image_bytes);
  const ProductUnit unit;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const ConvWindow w = conv_window(g, tile);
    fill_image(args.in, g, w, PixelCopy{}, image);
    for (int phase = 0; phase < 4; ++phase) {
      const int down = phase / 2, right = phase % 2;
      const WindowProduct window{2, 2, down, right, args.phase[phase]};
      const auto finish = [&](int column) { return ElementMath::Finish{args.bias + column}; };
      const ptrdiff_t row = 2 * g.width * args.out.pitch;
      Elem* first =
          args.out.pixel<Elem>(((static_cast<ptrdiff_t>(w.frame) * g.height + w.row) * 2 + down) * 2 * g.width + right);
      window_product<ElementMath>(g, w, window, image, partial, finish,
                                  {first, 2 * g.height * row, 2 * row, 2 * args.out.pitch});
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
