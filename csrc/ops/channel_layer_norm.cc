#include "ops/channel_layer_norm.h"

#include "ops/layer_norm_row.h"

namespace gaitcrafter {
namespace {

void channel_layer_norm(const ChannelLayerNorm& args, PixelRange range) {
  const int channels = args.in.channels, whole = channels / kLanes * kLanes;
  for (ptrdiff_t pixel = range.begin; pixel < range.end; ++pixel) {
    Elem* y = args.out.pixel<Elem>(pixel);
    layer_norm_row(args.in.pixel<Elem>(pixel), channels, y);
    for (int c = 0; c < whole; c += kLanes) store(y + c, load(y + c) * load(args.gamma + c));
    for (int c = whole; c < channels; ++c) assign(y[c], to_float(y[c]) * args.gamma[c]);
  }
}

}  // namespace
}  // namespace gaitcrafter
