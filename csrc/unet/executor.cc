#include "unet/executor.h"

#include <algorithm>

#include "ops/pixel_shuffle.h"
#include "ops/positional_embedding.h"

namespace gaitcrafter {
namespace {

// Pixels that a pointwise node takes through all its steps before the next.
constexpr ptrdiff_t kPixelBlock = 256;

class Runner {
 public:
  Runner(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs, std::byte* workspace)
      : plan_(plan),
        ops_(ops),
        fp32_(fp32),
        inputs_(inputs),
        workspace_(workspace),
        scratch_(workspace + plan.placement.bytes) {}

  void operator()(const UnshuffleNode& n) const {
    pixel_unshuffle(inputs_.clip, inputs_.input_map, n.patch, tensor(n.out));
  }

  void operator()(const ShuffleNode& n) const { pixel_shuffle(tensor(n.in), n.patch, inputs_.out); }

  void operator()(const PositionalNode& n) const { positional_embedding(n.spatial, n.frame, tensor(n.value)); }

  void operator()(const ConvNode& n) const {
    Conv2d args{tensor(n.in), tensor(n.out), n.grid, n.weight, n.bias, n.quantised ? &*n.quantised : nullptr};
    if (n.pending) args.in.pending = affine(*n.pending);
    if (n.statistics >= 0) args.out.statistics = buffer(n.statistics);
    ops_.conv2d(args, {0, n.grid.tiles}, scratch_);
  }

  void operator()(const UpsampleNode& n) const {
    ConvTranspose2d args{tensor(n.in), tensor(n.out), n.grid, {}, n.bias};
    for (int phase = 0; phase < 4; ++phase) args.phase[phase] = n.phase[phase];
    ops_.conv_transpose2d(args, {0, n.grid.tiles}, scratch_);
  }

  void operator()(const AffineNode& n) const {
    float* scale = buffer(n.slot.buffer);
    float* shift = scale + static_cast<ptrdiff_t>(n.slot.channels) * n.slot.sets;
    Film film;
    if (n.film >= 0) film = {inputs_.film_time + n.film, inputs_.film_condition + n.film};
    if (n.norm == Norm::kRmsNorm) {
      rms_norm_affine(n.weight, n.slot.channels, film, scale, shift);
      return;
    }
    group_norm_affine({buffer(n.statistics), n.grid, n.slot.channels, n.groups, n.scope, n.weight, n.bias, film}, scale,
                      shift);
  }

  void operator()(const NormNode& n) const {
    Tensor in = tensor(n.in);
    in.pending = affine(n.affine);
    const Tensor out = tensor(n.out), residual = n.residual ? tensor(*n.residual) : Tensor{};
    const bool shortcut = n.shortcut.k > 0;
    const Tensor* added = !n.residual ? nullptr : shortcut ? &out : &residual;
    for (ptrdiff_t pixel = 0; pixel < in.pixels(); pixel += kPixelBlock) {
      const PixelRange range{pixel, std::min(pixel + kPixelBlock, in.pixels())};
      if (shortcut) ops_.linear({residual, out, n.shortcut, n.shortcut_bias, nullptr}, range);
      if (n.norm == Norm::kRmsNorm)
        ops_.rms_norm_silu({in, out, added}, range);
      else
        ops_.norm_silu({in, out, added}, range);
    }
  }

  void operator()(const SpatialLinearAttentionNode& n) const {
    ops_.spatial_linear_attention({tensor(n.in), tensor(n.out), n.heads, n.dim, n.q, n.kv, n.to_out, n.bias},
                                  {0, n.in.frames}, scratch_);
  }

  void operator()(const TemporalAttentionNode& n) const {
    TemporalAttention args;
    args.in = tensor(n.in);
    args.out = tensor(n.out);
    args.weights = {n.heads, n.dim, n.qkv, n.to_out};
    if (n.position_bias != nullptr) {
      args.bias = n.position_bias;
      args.bias_pitch = round_up(n.in.frames, kWidestLanes);
    }
    if (n.rotary.dim > 0) {
      args.cos = n.rotary.cos;
      args.sin = n.rotary.sin;
      args.rotary_pitch = n.rotary.pitch;
      args.rotary_dim = n.rotary.dim;
    }
    const int sites = n.in.height * n.in.width;
    const int tile = temporal_attention_sites(ops_.element, n.in.channels, n.heads, n.dim, n.in.frames, sites);
    ops_.temporal_attention(args, {0, ceil_div(sites, tile)}, scratch_);
  }

  void operator()(const SpatialAttentionNode& n) const {
    ops_.spatial_attention({tensor(n.in), tensor(n.out), {n.heads, n.dim, n.qkv, n.to_out}}, {0, n.in.frames},
                           scratch_);
  }

  void operator()(const TemporalConvNode& n) const {
    const int sites = n.in.height * n.in.width, tile = temporal_conv_sites(n.in.channels, n.in.frames, sites);
    ops_.temporal_conv({tensor(n.in), tensor(n.out), n.weight, n.bias}, {0, ceil_div(sites, tile)}, scratch_);
  }

  void operator()(const LinearNode& n) const {
    (n.fp32 ? fp32_ : ops_).linear({tensor(n.in), tensor(n.out), n.weight, n.bias, nullptr}, {0, n.in.pixels()});
  }

 private:
  std::byte* memory(int index) const { return workspace_ + plan_.placement.offsets[static_cast<size_t>(index)]; }
  float* buffer(int index) const { return reinterpret_cast<float*>(memory(index)); }

  Tensor tensor(const Value& v) const {
    Tensor t;
    t.data = memory(v.buffer) + v.offset * bytes_of(v.dtype);
    t.dtype = v.dtype;
    t.frames = v.frames;
    t.height = v.height;
    t.width = v.width;
    t.channels = v.channels;
    t.pitch = v.pitch;
    return t;
  }

  Affine affine(const AffineSlot& slot) const {
    const float* scale = buffer(slot.buffer);
    return {scale, scale + static_cast<ptrdiff_t>(slot.channels) * slot.sets, slot.sets > 1 ? slot.channels : 0};
  }

  const Plan& plan_;
  const OpTable &ops_, &fp32_;
  const ForwardInputs& inputs_;
  std::byte* workspace_;
  std::byte* scratch_;
};

}  // namespace

void run_plan(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs,
              std::byte* workspace) {
  const Runner runner(plan, ops, fp32, inputs, workspace);
  for (const Node& node : plan.nodes) std::visit(runner, node);
}

}  // namespace gaitcrafter
