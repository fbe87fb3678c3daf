#include "unet/executor.h"

#include <algorithm>

namespace gaitcrafter {
namespace {

// Pixels that a pointwise node takes through all its steps before the next.
constexpr ptrdiff_t kPixelBlock = 256;
// Statistics that are joined alone: more are worth waking other threads for.
constexpr int kJoinedAlone = 1024;

int pixel_blocks(const Tensor& t) { return static_cast<int>((t.pixels() + kPixelBlock - 1) / kPixelBlock); }

PixelRange pixels_of(const Tensor& t, int begin, int end) {
  return {begin * kPixelBlock, std::min(end * kPixelBlock, t.pixels())};
}

// Every node is a region of the team: its tiles, frames, sites or pixel blocks are independent.
class Runner {
 public:
  Runner(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs,
         const ForwardMemory& memory, Team& team)
      : plan_(plan), ops_(ops), fp32_(fp32), inputs_(inputs), memory_(memory), team_(team) {}

  void operator()(const UnshuffleNode& n) const {
    const Tensor out = tensor(n.out);
    team_.run(out.frames, [&](int begin, int end, std::byte*) {
      ops_.pixel_unshuffle(inputs_.clip, inputs_.input_map, n.patch, out, {begin, end});
    });
  }

  void operator()(const ShuffleNode& n) const {
    const Tensor in = tensor(n.in);
    team_.run(in.frames, [&](int begin, int end, std::byte*) {
      ops_.pixel_shuffle(in, n.patch, inputs_.out, {begin, end});
    });
  }

  void operator()(const PositionalNode& n) const {
    const Tensor value = tensor(n.value);
    team_.run(value.frames, [&](int begin, int end, std::byte*) {
      ops_.positional_embedding({value, n.spatial, n.frame}, {begin, end});
    });
  }

  void operator()(const ConvNode& n) const {
    Conv2d args{tensor(n.in), tensor(n.out), n.grid, n.weight, n.bias, n.quantised ? &*n.quantised : nullptr};
    if (n.pending) args.in.pending = affine(*n.pending);
    if (n.statistics >= 0) args.out.statistics = buffer(n.statistics);
    team_.run(n.grid.tiles, [&](int begin, int end, std::byte* scratch) { ops_.conv2d(args, {begin, end}, scratch); });
  }

  void operator()(const UpsampleNode& n) const {
    ConvTranspose2d args{tensor(n.in), tensor(n.out), n.grid, {}, n.bias};
    for (int phase = 0; phase < 4; ++phase) args.phase[phase] = n.phase[phase];
    team_.run(n.grid.tiles, [&](int begin, int end, std::byte* scratch) {
      ops_.conv_transpose2d(args, {begin, end}, scratch);
    });
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
    const GroupNormAffine args{
        buffer(n.statistics), n.grid, n.slot.channels, n.groups, n.scope, n.weight, n.bias, film};
    const auto join = [&](int begin, int end, std::byte*) { group_norm_affine(args, {begin, end}, scale, shift); };
    if (n.grid.statistics_slots() * n.slot.channels <= kJoinedAlone)
      join(0, group_norm_sets(args), nullptr);
    else
      team_.run(group_norm_sets(args), join);
  }

  void operator()(const NormNode& n) const {
    Tensor in = tensor(n.in);
    in.pending = affine(n.affine);
    const Tensor out = tensor(n.out), residual = n.residual ? tensor(*n.residual) : Tensor{};
    const bool shortcut = n.shortcut.k > 0;
    const Tensor* added = !n.residual ? nullptr : shortcut ? &out : &residual;
    team_.run(pixel_blocks(in), [&](int begin, int end, std::byte*) {
      for (int block = begin; block < end; ++block) {
        const PixelRange range = pixels_of(in, block, block + 1);
        if (shortcut && n.norm == Norm::kGroupNorm) {
          ops_.shortcut_norm_silu({in, out, residual, n.shortcut, n.shortcut_bias}, range);
          continue;
        }
        if (shortcut) ops_.linear({residual, out, n.shortcut, n.shortcut_bias, nullptr}, range);
        if (n.norm == Norm::kRmsNorm)
          ops_.rms_norm_silu({in, out, added}, range);
        else
          ops_.norm_silu({in, out, added}, range);
      }
    });
  }

  void operator()(const SpatialLinearAttentionNode& n) const {
    const SpatialLinearAttention args{tensor(n.in), tensor(n.out), n.heads, n.dim, n.q, n.kv, n.to_out, n.bias};
    team_.run(n.in.frames, [&](int begin, int end, std::byte* scratch) {
      ops_.spatial_linear_attention(args, {begin, end}, scratch);
    });
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
    args.rotary = n.rotary;
    const int sites = n.in.height * n.in.width;
    const int tile = temporal_attention_sites(ops_.operand(), n.in.channels, n.heads, n.dim, n.in.frames, sites);
    team_.run(ceil_div(sites, tile), [&](int begin, int end, std::byte* scratch) {
      ops_.temporal_attention(args, {begin, end}, scratch);
    });
  }

  void operator()(const SpatialAttentionNode& n) const {
    const SpatialAttention args{tensor(n.in), tensor(n.out), {n.heads, n.dim, n.qkv, n.to_out}};
    team_.run(n.in.frames, [&](int begin, int end, std::byte* scratch) {
      ops_.spatial_attention(args, {begin, end}, scratch);
    });
  }

  void operator()(const TemporalConvNode& n) const {
    const int sites = n.in.height * n.in.width, tile = temporal_conv_sites(n.in.channels, n.in.frames, sites);
    const TemporalConv args{tensor(n.in), tensor(n.out), n.weight, n.bias};
    team_.run(ceil_div(sites, tile), [&](int begin, int end, std::byte* scratch) {
      ops_.temporal_conv(args, {begin, end}, scratch);
    });
  }

  void operator()(const LinearNode& n) const {
    const OpTable& ops = n.fp32 ? fp32_ : ops_;
    const Linear args{tensor(n.in), tensor(n.out), n.weight, n.bias, nullptr};
    team_.run(pixel_blocks(args.in),
              [&](int begin, int end, std::byte*) { ops.linear(args, pixels_of(args.in, begin, end)); });
  }

 private:
  std::byte* memory(int index) const {
    const size_t offset = memory_.placement->offsets[static_cast<size_t>(index)], own = memory_.placement->own;
    return offset < own ? memory_.own + offset : memory_.shared + (offset - own);
  }
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
  const ForwardMemory& memory_;
  Team& team_;
};

}  // namespace

void run_plan(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs,
              const ForwardMemory& memory, Team& team, NodeTimes* times) {
  const Runner runner(plan, ops, fp32, inputs, memory, team);
  if (times == nullptr) {
    for (const Node& node : plan.nodes) std::visit(runner, node);
    return;
  }
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const Stopwatch watch(&(*times)[i]);
    std::visit(runner, plan.nodes[i]);
  }
}

void run_node(const Plan& plan, const OpTable& ops, const OpTable& fp32, const ForwardInputs& inputs,
              const ForwardMemory& memory, Team& team, size_t node) {
  std::visit(Runner(plan, ops, fp32, inputs, memory, team), plan.nodes[node]);
}

}  // namespace gaitcrafter
