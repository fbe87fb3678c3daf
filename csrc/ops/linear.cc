#include "ops/linear.h"

#include "ops/product.h"

namespace gaitcrafter {
namespace {

// The product's rows as `Out`: activations, or fp32 where the result leaves the network.
template <class Out>
GC_INLINE void linear_as(const Linear& args, PixelRange range) {
  constexpr ptrdiff_t kBlock = 256;  // pixels that stay in the cache while all panels pass over them
  for (ptrdiff_t begin = range.begin; begin < range.end; begin += kBlock) {
    const int rows = static_cast<int>(range.end - begin < kBlock ? range.end - begin : kBlock);
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      panel_product<Layout::kRows, Out, Elem>(packed_product(args.weight, args.bias, panel), rows, [&](int i) {
        const ptrdiff_t pixel = begin + i;
        return Row<Out, Elem>{args.in.pixel<Elem>(pixel), args.out.pixel<Out>(pixel) + column,
                              args.residual == nullptr ? nullptr : args.residual->pixel<Elem>(pixel) + column};
      });
    }
  }
}

void linear(const Linear& args, PixelRange range) {
  if (args.out.dtype == DType::kF32)
    linear_as<float>(args, range);
  else
    linear_as<Elem>(args, range);
}

}  // namespace
}  // namespace gaitcrafter
