// All kernels of one instruction set in one object. The build compiles this file once per set, with that set's flags
// and GC_OP_TABLE naming the table, the one symbol that the object exports.
#include "ops/op_table.h"

// NOLINTBEGIN(bugprone-suspicious-include)
#include "ops/channel_layer_norm.cc"
#include "ops/conv2d.cc"
#include "ops/conv_transpose2d.cc"
#include "ops/group_norm_silu.cc"
#include "ops/linear.cc"
#include "ops/pixel_shuffle.cc"
#include "ops/positional_embedding.cc"
#include "ops/shortcut_norm_silu.cc"
#include "ops/spatial_attention.cc"
#include "ops/spatial_linear_attention.cc"
#include "ops/temporal_attention.cc"
#include "ops/temporal_conv.cc"
// NOLINTEND(bugprone-suspicious-include)

namespace gaitcrafter {
namespace {

template <Vec (*kFunction)(Vec)>
void map_array(const float* x, float* y, ptrdiff_t count) {
  for (; count >= kLanes; count -= kLanes, x += kLanes, y += kLanes) store(y, kFunction(load(x)));
  if (count > 0) store_first(y, kFunction(load_first(x, static_cast<int>(count))), static_cast<int>(count));
}

}  // namespace

extern const OpTable GC_OP_TABLE;
const OpTable GC_OP_TABLE = {
    kElem,
    kTiles,
    kLanes,
    kMaxVectors,
    conv2d,
    conv_transpose2d,
    linear,
    norm_silu,
    shortcut_norm_silu,
    rms_norm_silu,
    channel_layer_norm,
    temporal_attention,
    spatial_attention,
    spatial_linear_attention,
    temporal_conv,
    pixel_unshuffle,
    pixel_shuffle,
    positional_embedding,
    map_array<exp>,
    map_array<silu>,
};

}  // namespace gaitcrafter
