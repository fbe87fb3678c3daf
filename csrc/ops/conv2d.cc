#include "ops/conv2d.h"

#include "ops/channel_moments.h"
#if defined(GC_AMX)
#include "ops/amx_conv_product.h"
#else
#include "ops/conv_product.h"
#endif
#if !defined(GC_BF16)
#include "ops/winograd.h"
#endif
#if defined(GC_INT8)
#include "ops/int8_product.h"
#endif

namespace gaitcrafter {
namespace {

template <class Math, class FinishAt>
void direct_product(const Conv2d& args, const ConvWindow& w, const typename Math::A* image,
                    typename Math::Partial* partial, FinishAt finish) {
  const ConvGrid& g = args.grid;
  const WindowProduct window{g.kernel, g.kernel, 0, 0, args.weight};
  const ptrdiff_t row = g.width * args.out.pitch;
  Elem* first = args.out.pixel<Elem>((static_cast<ptrdiff_t>(w.frame) * g.height + w.row) * g.width);
  window_product<Math>(g, w, window, image, partial, finish, {first, g.height * row, row, args.out.pitch});
}

void element_tile(const Conv2d& args, const ConvWindow& w, std::byte* scratch) {
  Elem* image = reinterpret_cast<Elem*>(scratch);
  float* sums = reinterpret_cast<float*>(scratch + args.grid.image_bytes);
  fill_image(args.in, args.grid, w, PixelCopy{}, image);
#if !defined(GC_BF16)
  if (args.grid.winograd()) {
    winograd_product(args, w, image, sums);
    return;
  }
#endif
  direct_product<ElementMath>(args, w, image, sums,
                              [&](int column) { return ElementMath::Finish{args.bias + column}; });
}

#if defined(GC_INT8)
void quantised_tile(const Conv2d& args, const ConvWindow& w, std::byte* scratch) {
  const Quantised& q = *args.quantised;
  uint8_t* image = reinterpret_cast<uint8_t*>(scratch);
  fill_image(args.in, args.grid, w, PixelQuantisation{q}, image);
  direct_product<Int8Math>(args, w, image, reinterpret_cast<int32_t*>(scratch + args.grid.image_bytes),
                           [&](int column) {
                             return Int8Math::Finish{q.start + column, q.scale + column, args.bias + column};
                           });
}
#endif

void conv2d(const Conv2d& args, TileRange tiles, std::byte* scratch) {
  const ConvGrid& g = args.grid;
  const ProductUnit unit;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const ConvWindow w = conv_window(g, tile);
#if defined(GC_INT8)
    if (args.quantised != nullptr)
      quantised_tile(args, w, scratch);
    else
#endif
      element_tile(args, w, scratch);
    if (args.out.statistics != nullptr) tile_moments(args.out, g, w);
  }
}

}  // namespace
}  // namespace gaitcrafter
