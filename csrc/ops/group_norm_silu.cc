#include "ops/group_norm_silu.h"

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

// One pixel of silu(x * gain * scale + shift) + residual.
template <bool kResidual>
GC_INLINE void activate_pixel(const float* x, Vec gain, const float* scale, const float* shift, const float* residual,
                              int channels, float* y) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Vec v = silu(load(x + c) * gain * load(scale + c) + load(shift + c));
    store(y + c, kResidual ? v + load(residual + c) : v);
  }
  const int rest = channels - c;
  if (rest == 0) return;
  const Vec v = silu(load_first(x + c, rest) * gain * load_first(scale + c, rest) + load_first(shift + c, rest));
  store_first(y + c, kResidual ? v + load_first(residual + c, rest) : v, rest);
}

template <bool kResidual, class GainOf>
void activate(const Tensor& in, const Tensor& out, const Tensor* residual, PixelRange range, GainOf gain) {
  const ptrdiff_t sites = in.sites();
  ptrdiff_t pixel = range.begin;
  while (pixel < range.end) {
    const ptrdiff_t frame = pixel / sites;
    const ptrdiff_t end = (frame + 1) * sites < range.end ? (frame + 1) * sites : range.end;
    const float* scale = in.pending.scale + frame * in.pending.frame_stride;
    const float* shift = in.pending.shift + frame * in.pending.frame_stride;
    for (; pixel < end; ++pixel) {
      const float* x = in.pixel(pixel);
      activate_pixel<kResidual>(x, gain(x), scale, shift, kResidual ? residual->pixel(pixel) : nullptr, in.channels,
                                out.pixel(pixel));
    }
  }
}

void norm_silu(const NormSilu& args, PixelRange range) {
  const auto gain = [](const float*) { return splat(1.0f); };
  if (args.residual != nullptr)
    activate<true>(args.in, args.out, args.residual, range, gain);
  else
    activate<false>(args.in, args.out, nullptr, range, gain);
}

GC_INLINE float inverse_norm(const float* x, int channels) {
  Vec sum = {};
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) sum += load(x + c) * load(x + c);
  if (c < channels) {
    const Vec v = load_first(x + c, channels - c);
    sum += v * v;
  }
  const float norm = __builtin_sqrtf(sum_lanes(sum));
  return 1.0f / (norm > 1e-12f ? norm : 1e-12f);
}

void rms_norm_silu(const RmsNormSilu& args, PixelRange range) {
  const int channels = args.in.channels;
  const auto gain = [channels](const float* x) { return splat(inverse_norm(x, channels)); };
  if (args.residual != nullptr)
    activate<true>(args.in, args.out, args.residual, range, gain);
  else
    activate<false>(args.in, args.out, nullptr, range, gain);
}

}  // namespace
}  // namespace gaitcrafter
