#include "ops/channel_layer_norm.h"

#include "ops/layer_norm_row.h"

namespace gaitcrafter {
namespace {

void channel_layer_norm(const ChannelLayerNorm& args, PixelRange range) {
  const int channels = args.in.channels, whole = channels / kLanes * kLanes;
  for (ptrdiff_t pixel = range.begin; pixel < range.end; ++pixel) {
    float* y = args.out.pixel(pixel);
    layer_norm_row(args.in.pixel(pixel), channels, y);
    for (int c = 0; c < whole; c += kLanes) store(y + c, load(y + c) * load(args.gamma + c));
    for (int c = whole; c < channels; ++c) y[c] *= args.gamma[c];
  }
}

}  // namespace
}  // namespace gaitcrafter
