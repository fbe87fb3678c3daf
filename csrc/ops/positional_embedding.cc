#include "ops/positional_embedding.h"

namespace gaitcrafter {
namespace {

template <class E>
void add_positions(const float* spatial, const float* frame, const Tensor& x, TileRange frames) {
  const ptrdiff_t sites = x.sites();
  for (int f = frames.begin; f < frames.end; ++f)
    for (ptrdiff_t site = 0; site < sites; ++site) {
      E* p = x.pixel<E>(f * sites + site);
      for (int c = 0; c < x.channels; ++c)
        assign(p[c], to_float(p[c]) + frame[static_cast<ptrdiff_t>(f) * x.channels + c] + spatial[c * sites + site]);
    }
}

}  // namespace

void positional_embedding(const float* spatial, const float* frame, const Tensor& x, TileRange frames) {
  if (x.dtype == DType::kF32)
    add_positions<float>(spatial, frame, x, frames);
  else
    add_positions<Bf16>(spatial, frame, x, frames);
}

}  // namespace gaitcrafter
