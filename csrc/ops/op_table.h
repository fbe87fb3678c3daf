// The ops of one instruction set and precision. csrc/ops/isa_unit.cc compiles one such table each from the same
// sources.
#pragma once

#include "core/precision.h"
#include "ops/channel_layer_norm.h"
#include "ops/conv2d.h"
#include "ops/conv_transpose2d.h"
#include "ops/group_norm_silu.h"
#include "ops/linear.h"
#include "ops/pixel_shuffle.h"
#include "ops/positional_embedding.h"
#include "ops/spatial_attention.h"
#include "ops/spatial_linear_attention.h"
#include "ops/temporal_attention.h"
#include "ops/temporal_conv.h"

namespace gaitcrafter {

// `element` is the type of activations and weights. Scratch is 64-byte aligned, as large as tiling.h says, and needs no
// initial value.
struct OpTable {
  DType element;
  bool tiles;              // products are the matrix unit's
  int lanes, max_vectors;  // shape of the weight panels (packing.h)
  void (*conv2d)(const Conv2d&, TileRange, std::byte* scratch);
  void (*conv_transpose2d)(const ConvTranspose2d&, TileRange, std::byte* scratch);
  void (*linear)(const Linear&, PixelRange);
  void (*norm_silu)(const NormSilu&, PixelRange);
  void (*shortcut_norm_silu)(const ShortcutNormSilu&, PixelRange);
  void (*rms_norm_silu)(const RmsNormSilu&, PixelRange);
  void (*channel_layer_norm)(const ChannelLayerNorm&, PixelRange);
  void (*temporal_attention)(const TemporalAttention&, TileRange, std::byte* scratch);
  void (*spatial_attention)(const SpatialAttention&, TileRange, std::byte* scratch);
  void (*spatial_linear_attention)(const SpatialLinearAttention&, TileRange, std::byte* scratch);
  void (*temporal_conv)(const TemporalConv&, TileRange, std::byte* scratch);
  void (*pixel_unshuffle)(const float* clip, const float* map, int patch, const Tensor& out, TileRange frames);
  void (*pixel_shuffle)(const Tensor& in, int patch, float* clip, TileRange frames);
  void (*positional_embedding)(const PositionalEmbedding&, TileRange frames);
  void (*exp)(const float* x, float* y, ptrdiff_t count);  // for the tests of the polynomials
  void (*silu)(const float* x, float* y, ptrdiff_t count);

  OperandType operand() const { return {element, tiles}; }
  OperandType bytes() const { return {DType::kU8, tiles}; }
};

// Throws kCapability if this processor does not run `isa`, or `precision` with it.
const OpTable& op_table(Isa isa, Precision precision);

}  // namespace gaitcrafter
