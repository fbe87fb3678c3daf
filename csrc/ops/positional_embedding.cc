#include "ops/positional_embedding.h"

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

void positional_embedding(const PositionalEmbedding& args, TileRange frames) {
  const Tensor& x = args.x;
  const ptrdiff_t sites = x.sites(), row = round_up(x.channels, kWidestLanes);
  for (int f = frames.begin; f < frames.end; ++f)
    for (ptrdiff_t site = 0; site < sites; ++site) {
      Elem* p = x.pixel<Elem>(f * sites + site);
      const float *a = args.frame + f * row, *b = args.spatial + site * row;
      int c = 0;
      for (; c + kLanes <= x.channels; c += kLanes) store(p + c, load(p + c) + load(a + c) + load(b + c));
      if (const int rest = x.channels - c; rest > 0)
        store_first(p + c, load_first(p + c, rest) + load_first(a + c, rest) + load_first(b + c, rest), rest);
    }
}

}  // namespace
}  // namespace gaitcrafter
