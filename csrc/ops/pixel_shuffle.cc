#include "ops/pixel_shuffle.h"

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

// Calls visit(planar index, map index, pixel, channel) for every run of `patch` values side by side.
template <class Visit>
GC_INLINE void for_each_run(const Tensor& t, int patch, TileRange frames, Visit visit) {
  const ptrdiff_t width = static_cast<ptrdiff_t>(t.width) * patch,
                  plane = static_cast<ptrdiff_t>(t.height) * patch * width;
  const int planes = t.channels / (patch * patch);
  for (int c = 0; c < planes; ++c)
    for (int f = frames.begin; f < frames.end; ++f)
      for (int y = 0; y < t.height; ++y)
        for (int i = 0; i < patch; ++i) {
          const ptrdiff_t row = (static_cast<ptrdiff_t>(y) * patch + i) * width;
          const ptrdiff_t pixel = (static_cast<ptrdiff_t>(f) * t.height + y) * t.width;
          const ptrdiff_t planar = (static_cast<ptrdiff_t>(c) * t.frames + f) * plane + row, map = c * plane + row;
          for (int x = 0; x < t.width; ++x)
            visit(planar + static_cast<ptrdiff_t>(x) * patch, map + static_cast<ptrdiff_t>(x) * patch, pixel + x,
                  (c * patch + i) * patch);
        }
}

#if defined(__AVX512F__)

// Patches of 4 x 4 are one vector of channels.
constexpr int kVectorPatch = 4;

GC_INLINE Vec load_patch(const float* p, ptrdiff_t width) {
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + width), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * width), 2);
  return (Vec)_mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * width), 3);
}

GC_INLINE void store_patch(float* p, ptrdiff_t width, Vec v) {
  _mm_storeu_ps(p, _mm512_castps512_ps128((__m512)v));
  _mm_storeu_ps(p + width, _mm512_extractf32x4_ps((__m512)v, 1));
  _mm_storeu_ps(p + 2 * width, _mm512_extractf32x4_ps((__m512)v, 2));
  _mm_storeu_ps(p + 3 * width, _mm512_extractf32x4_ps((__m512)v, 3));
}

// Calls visit(planar index, map index, pixel) for every patch of a clip of one channel.
template <class Visit>
GC_INLINE void for_each_patch(const Tensor& t, TileRange frames, Visit visit) {
  const ptrdiff_t width = static_cast<ptrdiff_t>(t.width) * kVectorPatch;
  for (int f = frames.begin; f < frames.end; ++f)
    for (int y = 0; y < t.height; ++y)
      for (int x = 0; x < t.width; ++x) {
        const ptrdiff_t row = static_cast<ptrdiff_t>(f) * t.height + y,
                        column = static_cast<ptrdiff_t>(x) * kVectorPatch;
        visit(row * kVectorPatch * width + column, y * kVectorPatch * width + column, row * t.width + x);
      }
}

GC_INLINE bool is_vector_patch(const Tensor& t, int patch) { return patch == kVectorPatch && t.channels == kLanes; }

#endif

void pixel_unshuffle(const float* clip, const float* map, int patch, const Tensor& out, TileRange frames) {
#if defined(__AVX512F__)
  if (is_vector_patch(out, patch)) {
    const ptrdiff_t width = static_cast<ptrdiff_t>(out.width) * patch;
    for_each_patch(out, frames, [&](ptrdiff_t from, ptrdiff_t at, ptrdiff_t pixel) {
      const Vec v = load_patch(clip + from, width);
      store(out.pixel<Elem>(pixel), map == nullptr ? v : v + load_patch(map + at, width));
    });
    return;
  }
#endif
  for_each_run(out, patch, frames, [&](ptrdiff_t from, ptrdiff_t at, ptrdiff_t pixel, int channel) {
    Elem* y = out.pixel<Elem>(pixel) + channel;
    for (int j = 0; j < patch; ++j) assign(y[j], map == nullptr ? clip[from + j] : clip[from + j] + map[at + j]);
  });
}

void pixel_shuffle(const Tensor& in, int patch, float* clip, TileRange frames) {
#if defined(__AVX512F__)
  if (is_vector_patch(in, patch)) {
    const ptrdiff_t width = static_cast<ptrdiff_t>(in.width) * patch;
    for_each_patch(in, frames, [&](ptrdiff_t to, ptrdiff_t, ptrdiff_t pixel) {
      store_patch(clip + to, width, load(in.pixel<float>(pixel)));
    });
    return;
  }
#endif
  for_each_run(in, patch, frames, [&](ptrdiff_t to, ptrdiff_t, ptrdiff_t pixel, int channel) {
    for (int j = 0; j < patch; ++j) clip[to + j] = in.pixel<float>(pixel)[channel + j];
  });
}

}  // namespace
}  // namespace gaitcrafter
