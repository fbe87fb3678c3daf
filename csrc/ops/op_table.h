// The ops of one instruction set. csrc/ops/isa_unit.cc compiles one such table per set from the same sources.
#pragma once

#include "core/isa.h"
#include "ops/channel_layer_norm.h"
#include "ops/conv2d.h"
#include "ops/conv_transpose2d.h"
#include "ops/group_norm_silu.h"
#include "ops/linear.h"
#include "ops/spatial_attention.h"
#include "ops/spatial_linear_attention.h"
#include "ops/temporal_attention.h"
#include "ops/temporal_conv.h"

namespace gaitcrafter {

// Scratch is 64-byte aligned, as large as tiling.h says, and needs no initial value.
struct OpTable {
  int lanes, max_vectors;  // shape of the weight panels (packing.h)
  void (*conv2d)(const Conv2d&, TileRange, float* scratch);
  void (*conv_transpose2d)(const ConvTranspose2d&, TileRange, float* scratch);
  void (*linear)(const Linear&, PixelRange);
  void (*norm_silu)(const NormSilu&, PixelRange);
  void (*rms_norm_silu)(const RmsNormSilu&, PixelRange);
  void (*channel_layer_norm)(const ChannelLayerNorm&, PixelRange);
  void (*temporal_attention)(const TemporalAttention&, TileRange, float* scratch);
  void (*spatial_attention)(const SpatialAttention&, TileRange, float* scratch);
  void (*spatial_linear_attention)(const SpatialLinearAttention&, TileRange, float* scratch);
  void (*temporal_conv)(const TemporalConv&, TileRange, float* scratch);
  void (*exp)(const float* x, float* y, ptrdiff_t count);  // for the tests of the polynomials
  void (*silu)(const float* x, float* y, ptrdiff_t count);
};

// Throws kCapability if this processor does not run `isa`.
const OpTable& op_table(Isa isa);

}  // namespace gaitcrafter
