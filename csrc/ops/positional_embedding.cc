#include "ops/positional_embedding.h"

namespace gaitcrafter {

void positional_embedding(const float* spatial, const float* frame, const Tensor& x) {
  const ptrdiff_t sites = x.sites();
  for (int f = 0; f < x.frames; ++f)
    for (ptrdiff_t site = 0; site < sites; ++site) {
      float* p = x.pixel(f * sites + site);
      for (int c = 0; c < x.channels; ++c)
        p[c] += frame[static_cast<ptrdiff_t>(f) * x.channels + c] + spatial[c * sites + site];
    }
}

}  // namespace gaitcrafter
