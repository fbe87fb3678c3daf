// The network of one model as a list of fused nodes over memory that is planned once.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/package.h"
#include "ops/norm_statistics.h"
#include "ops/op_table.h"
#include "unet/memory.h"
#include "unet/weights.h"

namespace gaitcrafter {

// An activation: where it lies in its buffer, and its shape (ops/tensor.h).
struct Value {
  int buffer = -1;
  ptrdiff_t offset = 0;  // elements
  int frames = 0, height = 0, width = 0, channels = 0;
  ptrdiff_t pitch = 0;
  DType dtype = DType::kF32;

  ptrdiff_t pixels() const { return static_cast<ptrdiff_t>(frames) * height * width; }
};

// A pending affine: scale, then shift, for the clip or for every frame.
struct AffineSlot {
  int buffer = -1, channels = 0, sets = 1;
};

struct UnshuffleNode {
  Value out;
  int patch;
};

struct ConvNode {
  Value in, out;
  std::optional<AffineSlot> pending;
  int statistics = -1;  // buffer
  ConvGrid grid;
  Packed weight;
  const float* bias = nullptr;
  std::optional<Quantised> quantised;
};

struct UpsampleNode {
  Value in, out;
  ConvGrid grid;
  Packed phase[4];
  const float* bias = nullptr;
};

struct PositionalNode {
  Value value;                     // in place
  const float* spatial = nullptr;  // [h][w][C], C in whole vectors
  const float* frame = nullptr;    // [F][C], likewise
};

// Statistics and FiLM to an affine.
struct AffineNode {
  AffineSlot slot;
  Norm norm = Norm::kGroupNorm;
  int statistics = -1;  // buffer; GroupNorm only
  ConvGrid grid;        // of the convolution that wrote them
  int groups = 1;
  NormScope scope = NormScope::kClip;
  const float* weight = nullptr;  // gamma of the RMS norm
  const float* bias = nullptr;
  ptrdiff_t film = -1;  // of this block's terms; negative: none
};

// out = silu(norm(in)) + residual, or + shortcut(residual).
struct NormNode {
  Value in, out;
  AffineSlot affine;
  Norm norm = Norm::kGroupNorm;
  std::optional<Value> residual;
  Packed shortcut;  // empty: the residual itself
  const float* shortcut_bias = nullptr;
};

struct SpatialLinearAttentionNode {
  Value in, out;
  int heads, dim;
  const void *q = nullptr, *kv = nullptr;
  Packed to_out;
  const float* bias = nullptr;
};

struct TemporalAttentionNode {
  Value in, out;
  int heads, dim;
  const void* qkv = nullptr;
  Packed to_out;
  const float* position_bias = nullptr;  // shared by all levels
  RotaryTables rotary;
};

struct SpatialAttentionNode {
  Value in, out;
  int heads, dim;
  const void* qkv = nullptr;
  Packed to_out;
};

struct TemporalConvNode {
  Value in, out;
  Packed weight;
  const float* bias = nullptr;
};

struct LinearNode {
  Value in, out;
  bool fp32 = false;  // runs with fp32 operands, whatever the precision
  Packed weight;
  const float* bias = nullptr;
};

struct ShuffleNode {
  Value in;
  int patch;
};

using Node = std::variant<UnshuffleNode, ConvNode, UpsampleNode, PositionalNode, AffineNode, NormNode,
                          SpatialLinearAttentionNode, TemporalAttentionNode, SpatialAttentionNode, TemporalConvNode,
                          LinearNode, ShuffleNode>;

// A ResNet block that is modulated: its terms start at `offset` of the FiLM vector, scale [width], then shift [width].
struct FilmBlock {
  std::string name;
  int width = 0;
  ptrdiff_t offset = 0;
};

// A tensor that is read while clips are made, not by a node (unet/conditions.h).
struct KeptTensor {
  std::string name;
  TensorView view;
};

// Its pointers to weights lie in the store that it was built with.
struct Plan {
  std::vector<Node> nodes;
  std::vector<Lifetime> buffers;
  Placement placement;
  size_t scratch_bytes = 0;        // of one thread
  std::vector<double> operations;  // of every node: 2 x multiply-adds
  std::vector<FilmBlock> film_blocks;
  size_t film_floats = 0;
  std::vector<KeptTensor> kept;
  double flops = 0;
};

// A plan for `precision` and its table `ops`; `fp32` is the table of the same instruction set that serves the layers
// that stay fp32. All weights that a run needs go to `store`, after which the package is not needed any more. Throws
// std::bad_alloc, kCapability if the precision does not take the model's widths.
Plan build_plan(const ModelPackage& package, Precision precision, const OpTable& ops, const OpTable& fp32,
                WeightStore& store);

}  // namespace gaitcrafter
