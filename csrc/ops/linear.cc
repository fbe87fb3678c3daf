#include "ops/linear.h"

#include "ops/product.h"

namespace gaitcrafter {
namespace {

void linear(const Linear& args, PixelRange range) {
  constexpr ptrdiff_t kBlock = 256;  // pixels that stay in the cache while all panels pass over them
  for (ptrdiff_t begin = range.begin; begin < range.end; begin += kBlock) {
    const int rows = static_cast<int>(range.end - begin < kBlock ? range.end - begin : kBlock);
    for (int panel = 0; panel < panels_of(args.weight.n); ++panel) {
      const int column = first_column(args.weight.n, panel);
      panel_product<Layout::kRows>(packed_product(args.weight, args.bias, panel), rows, [&](int i) {
        const ptrdiff_t pixel = begin + i;
        return Row{args.in.pixel(pixel), args.out.pixel(pixel) + column,
                   args.residual == nullptr ? nullptr : args.residual->pixel(pixel) + column};
      });
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
