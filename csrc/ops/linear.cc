#include "ops/linear.h"

#include "ops/product.h"
#if defined(GC_AMX)
#include "ops/amx_product.h"
#endif

namespace gaitcrafter {
namespace {

#if defined(GC_AMX)
// A last tile of pixels that is not full begins earlier, and leaves what is there already.
template <class Out>
void linear_tiles(const Linear& args, PixelRange range) {
  alignas(64) std::byte block[kBlockRows * kBlockPitch];
  constexpr ptrdiff_t kBlock = 256;
  const ptrdiff_t last = args.in.pixels() - kTileRows;
  for (ptrdiff_t begin = range.begin; begin < range.end; begin += kBlock) {
    const ptrdiff_t end = range.end - begin < kBlock ? range.end : begin + kBlock;
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      const Product p = packed_product(args.weight, args.bias, panel);
      const int rest = p.columns - (p.vectors - 1) * kLanes;
      TileSums s;
      s.a_pitch = args.in.pitch * static_cast<ptrdiff_t>(sizeof(Elem));
      s.b = reinterpret_cast<const std::byte*>(p.b);
      s.b_pitch = p.vectors * kTileRowBytes;
      s.segment = &kNoOffset;
      s.steps = args.in.channels / kTileDepth;
      s.to = {block, kBlockPitch};
      for (ptrdiff_t first = begin; first < end; first += kBlockRows) {
        const int tiles = end - first > kTileRows ? 2 : 1;
        for (int i = 0; i < tiles; ++i) {
          const ptrdiff_t wanted = first + i * kTileRows, from = wanted < last ? wanted : last;
          s.a[i] = reinterpret_cast<const std::byte*>(args.in.pixel<Elem>(from));
        }
        sum_tiles<ElementMath>(s, tiles, p.vectors);
        for (ptrdiff_t pixel = first; pixel < end && pixel < first + kBlockRows; ++pixel) {
          const ptrdiff_t tile = (pixel - first) / kTileRows * kTileRows, wanted = first + tile;
          const int row = static_cast<int>(tile + pixel - (wanted < last ? wanted : last));
          Out* c = args.out.pixel<Out>(pixel) + column;
          const Elem* added = args.residual == nullptr ? nullptr : args.residual->pixel<Elem>(pixel) + column;
          for (int n = 0; n < p.vectors; ++n) {
            const Elem* add = added == nullptr ? nullptr : added + n * kLanes;
            ElementMath::put(p.finish, n, block_sum<ElementMath>(s.to, row, n), add, c + n * kLanes,
                             n + 1 < p.vectors ? kLanes : rest);
          }
        }
      }
    }
  }
}
#endif

// The product's rows as `Out`: activations, or fp32 where the result leaves the network.
template <class Out>
GC_INLINE void linear_as(const Linear& args, PixelRange range) {
#if defined(GC_AMX)
  if (args.in.channels % kTileDepth == 0 && args.in.pixels() >= kTileRows) {
    linear_tiles<Out>(args, range);
    return;
  }
#endif
  constexpr ptrdiff_t kBlock = 256;  // pixels that stay in the cache while all panels pass over them
  for (ptrdiff_t begin = range.begin; begin < range.end; begin += kBlock) {
    const int rows = static_cast<int>(range.end - begin < kBlock ? range.end - begin : kBlock);
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      Product p = packed_product(args.weight, args.bias, panel);
      p.k = args.in.channels;
      panel_product<Layout::kRows, Out, Elem>(p, rows, [&](int i) {
        const ptrdiff_t pixel = begin + i;
        return Row<Out, Elem>{args.in.pixel<Elem>(pixel), args.out.pixel<Out>(pixel) + column,
                              args.residual == nullptr ? nullptr : args.residual->pixel<Elem>(pixel) + column};
      });
    }
  }
}

void linear(const Linear& args, PixelRange range) {
  const ProductUnit unit;
  if (args.out.dtype == DType::kF32)
    linear_as<float>(args, range);
  else
    linear_as<Elem>(args, range);
}

}  // namespace
}  // namespace gaitcrafter
