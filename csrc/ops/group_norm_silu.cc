#include "ops/group_norm_silu.h"

#include "ops/simd.h"

namespace gaitcrafter {
namespace {

// One pixel of silu(x * gain * scale + shift) + residual.
template <bool kResidual, class Out, class Added>
GC_INLINE void activate_pixel(const Elem* x, Vec gain, const float* scale, const float* shift, const Added* residual,
                              int channels, Out* y) {
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

template <bool kResidual, class Out, class Added, class GainOf>
void activate_as(const Tensor& in, const Tensor& out, const Tensor* residual, PixelRange range, GainOf gain) {
  const ptrdiff_t sites = in.sites();
  ptrdiff_t pixel = range.begin;
  while (pixel < range.end) {
    const ptrdiff_t frame = pixel / sites;
    const ptrdiff_t end = (frame + 1) * sites < range.end ? (frame + 1) * sites : range.end;
    const float* scale = in.pending.scale + frame * in.pending.frame_stride;
    const float* shift = in.pending.shift + frame * in.pending.frame_stride;
    for (; pixel < end; ++pixel) {
      const Elem* x = in.pixel<Elem>(pixel);
      activate_pixel<kResidual>(x, gain(x), scale, shift, kResidual ? residual->pixel<Added>(pixel) : nullptr,
                                in.channels, out.pixel<Out>(pixel));
    }
  }
}

// The result in the tensor's own type: the last block of an eps-model leaves fp32.
template <class GainOf>
GC_INLINE void activate(const Tensor& in, const Tensor& out, const Tensor* residual, PixelRange range, GainOf gain) {
  if (residual == nullptr)
    out.dtype == kElem ? activate_as<false, Elem, Elem>(in, out, nullptr, range, gain)
                       : activate_as<false, float, Elem>(in, out, nullptr, range, gain);
  else if (out.dtype == kElem)
    activate_as<true, Elem, Elem>(in, out, residual, range, gain);
  else if (residual->dtype == kElem)
    activate_as<true, float, Elem>(in, out, residual, range, gain);
  else
    activate_as<true, float, float>(in, out, residual, range, gain);
}

void norm_silu(const NormSilu& args, PixelRange range) {
  activate(args.in, args.out, args.residual, range, [](const Elem*) { return splat(1.0f); });
}

GC_INLINE float inverse_norm(const Elem* x, int channels) {
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
  activate(args.in, args.out, args.residual, range,
           [channels](const Elem* x) { return splat(inverse_norm(x, channels)); });
}

}  // namespace
}  // namespace gaitcrafter
