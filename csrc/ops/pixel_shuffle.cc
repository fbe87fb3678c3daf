#include "ops/pixel_shuffle.h"

namespace gaitcrafter {
namespace {

// Calls visit(planar index, map index, pixel, channel) for every value of some frames.
template <class Visit>
void for_each_value(const Tensor& t, int patch, TileRange frames, Visit visit) {
  const ptrdiff_t width = static_cast<ptrdiff_t>(t.width) * patch,
                  plane = static_cast<ptrdiff_t>(t.height) * patch * width;
  const int planes = t.channels / (patch * patch);
  for (int c = 0; c < planes; ++c)
    for (int f = frames.begin; f < frames.end; ++f)
      for (int y = 0; y < t.height; ++y)
        for (int i = 0; i < patch; ++i) {
          const ptrdiff_t row = (static_cast<ptrdiff_t>(y) * patch + i) * width;
          const ptrdiff_t pixel = (static_cast<ptrdiff_t>(f) * t.height + y) * t.width;
          for (int x = 0; x < t.width; ++x)
            for (int j = 0; j < patch; ++j) {
              const ptrdiff_t at = row + static_cast<ptrdiff_t>(x) * patch + j;
              visit((static_cast<ptrdiff_t>(c) * t.frames + f) * plane + at, c * plane + at, pixel + x,
                    (c * patch + i) * patch + j);
            }
        }
}

template <class E>
void unshuffle_as(const float* clip, const float* map, int patch, const Tensor& out, TileRange frames) {
  if (map == nullptr)
    for_each_value(out, patch, frames, [&](ptrdiff_t from, ptrdiff_t, ptrdiff_t pixel, int c) {
      assign(out.pixel<E>(pixel)[c], clip[from]);
    });
  else
    for_each_value(out, patch, frames, [&](ptrdiff_t from, ptrdiff_t at, ptrdiff_t pixel, int c) {
      assign(out.pixel<E>(pixel)[c], clip[from] + map[at]);
    });
}

}  // namespace

void pixel_unshuffle(const float* clip, const float* map, int patch, const Tensor& out, TileRange frames) {
  if (out.dtype == DType::kF32)
    unshuffle_as<float>(clip, map, patch, out, frames);
  else
    unshuffle_as<Bf16>(clip, map, patch, out, frames);
}

void pixel_shuffle(const Tensor& in, int patch, float* clip, TileRange frames) {
  for_each_value(in, patch, frames,
                 [&](ptrdiff_t to, ptrdiff_t, ptrdiff_t pixel, int c) { clip[to] = in.pixel<float>(pixel)[c]; });
}

}  // namespace gaitcrafter
