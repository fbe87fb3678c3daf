#include "unet/blocks.h"

#include <algorithm>
#include <utility>

namespace gaitcrafter {

int PlanBuilder::new_buffer(size_t bytes) {
  plan_.buffers.push_back({bytes, -1, -1});
  return static_cast<int>(plan_.buffers.size()) - 1;
}

Value PlanBuilder::activation(int height, int width, int channels, DType dtype) {
  Value v{-1, 0, config_.clip.frames, height, width, channels, channels, dtype};
  v.buffer = new_buffer(static_cast<size_t>(v.pixels()) * static_cast<size_t>(channels) * bytes_of(dtype));
  return v;
}

Value PlanBuilder::channels_of(const Value& whole, int first, int count) {
  Value v = whole;
  v.offset += first;
  v.channels = count;
  return v;
}

AffineSlot PlanBuilder::new_affine(int channels) {
  const bool per_frame = config_.unet.norm == Norm::kGroupNorm && config_.unet.norm_scope == NormScope::kFrame;
  AffineSlot slot{-1, channels, per_frame ? config_.clip.frames : 1};
  slot.buffer = new_buffer(static_cast<size_t>(2) * channels * slot.sets * sizeof(float));
  return slot;
}

void PlanBuilder::touch(std::initializer_list<int> buffers) {
  const int now = static_cast<int>(plan_.nodes.size());
  for (const int b : buffers) {
    if (b < 0) continue;
    Lifetime& life = plan_.buffers[static_cast<size_t>(b)];
    if (life.first < 0) life.first = now;
    life.last = now;
  }
}

void PlanBuilder::add(const Node& node, std::initializer_list<int> buffers, double multiply_adds,
                      size_t scratch_bytes) {
  touch(buffers);
  plan_.nodes.push_back(node);
  plan_.operations.push_back(2 * multiply_adds);
  plan_.flops += 2 * multiply_adds;
  plan_.scratch_bytes = std::max(plan_.scratch_bytes, scratch_bytes);
}

void PlanBuilder::unshuffle(const Value& out) { add(UnshuffleNode{out, config_.unet.patch}, {out.buffer}); }

void PlanBuilder::shuffle(const Value& in) { add(ShuffleNode{in, config_.unet.patch}, {in.buffer}); }

void PlanBuilder::positional(const Value& value) {
  const TensorView spatial = tensor("positional.spatial"), frame = tensor("positional.frame");
  add(PositionalNode{value, rows_of(packer_, spatial, value.channels, true),
                     rows_of(packer_, frame, value.channels, false)},
      {value.buffer});
}

void PlanBuilder::conv(const std::string& name, const Value& in, const Value& out, int stride) {
  ConvNode node;
  const TensorView weight = tensor(name + ".weight");
  node.in = in;
  node.out = out;
  node.grid =
      conv_grid(operand_, out.frames, out.height, out.width, in.channels, static_cast<int>(weight.shape[2]), stride);
  node.weight = pack_conv(packer_, weight);
  node.bias = padded_vector(packer_, tensor(name + ".bias"));
  const double taps = static_cast<double>(node.grid.kernel) * node.grid.kernel;
  const double cost = static_cast<double>(out.pixels()) * taps * in.channels * out.channels;
  const size_t scratch = node.grid.scratch_bytes;
  add(node, {in.buffer, out.buffer}, cost, scratch);
}

void PlanBuilder::upsample(const std::string& name, const Value& in, const Value& out) {
  UpsampleNode node;
  node.in = in;
  node.out = out;
  node.grid = conv_grid(operand_, in.frames, in.height, in.width, in.channels, 3, 1);
  const TensorView weight = tensor(name + ".weight");
  for (int phase = 0; phase < 4; ++phase) node.phase[phase] = pack_transposed_phase(packer_, weight, phase);
  node.bias = padded_vector(packer_, tensor(name + ".bias"));
  const double cost = static_cast<double>(out.pixels()) * 4 * in.channels * out.channels;
  const size_t scratch = node.grid.scratch_bytes;
  add(node, {in.buffer, out.buffer}, cost, scratch);
}

void PlanBuilder::linear(const std::string& name, const Value& in, const Value& out, bool fp32) {
  const Packer& packer = fp32 ? fp32_packer_ : packer_;
  LinearNode node{in, out, fp32, pack_linear(packer, tensor(name + ".weight")),
                  padded_vector(packer, tensor(name + ".bias"))};
  add(node, {in.buffer, out.buffer}, static_cast<double>(out.pixels()) * in.channels * out.channels);
}

bool PlanBuilder::quantised(const std::string& name, int channels) const {
  const std::vector<std::string>& layers = config_.quantisation.layers;
  return precision_ == Precision::kInt8 && channels <= kMaxQuantisedChannels &&
         std::find(layers.begin(), layers.end(), name) != layers.end();
}

PlanBuilder::Convolved PlanBuilder::block_conv(const std::string& name, const Value& in, const Value& out,
                                               std::optional<AffineSlot> pending) {
  ConvNode node;
  node.in = in;
  node.out = out;
  node.pending = pending;
  const bool winograd = precision_ == Precision::kFp32Winograd && prefers_winograd(out.height, out.width, in.channels);
  const OperandType operand = quantised(name, in.channels) ? OperandType(DType::kU8, operand_.tiles) : operand_;
  node.grid = winograd ? winograd_grid(out.frames, out.height, out.width, in.channels)
                       : conv_grid(operand, out.frames, out.height, out.width, in.channels, 3, 1);
  const TensorView weight = tensor(name + ".weight");
  if (operand.type == DType::kU8) {
    const QuantisedConv q =
        pack_quantised_conv(packer_, weight, tensor(name + ".input_low"), tensor(name + ".input_high"));
    node.weight = q.weight;
    node.quantised = q.arrays;
  } else {
    node.weight = winograd ? pack_winograd(packer_, weight) : pack_conv(packer_, weight);
  }
  node.bias = padded_vector(packer_, tensor(name + ".bias"));
  if (config_.unet.norm == Norm::kGroupNorm)
    node.statistics = new_buffer(statistics_floats(node.grid, out.channels) * sizeof(float));
  const Convolved result{out, node.grid, node.statistics};
  const double cost = static_cast<double>(out.pixels()) * 9 * in.channels * out.channels;
  const size_t scratch = node.grid.scratch_bytes;
  const int affine = pending ? pending->buffer : -1;
  add(node, {in.buffer, out.buffer, result.statistics, affine}, cost, scratch);
  return result;
}

AffineSlot PlanBuilder::norm_affine(const std::string& name, const Convolved& convolved, ptrdiff_t film) {
  AffineNode node;
  node.slot = new_affine(convolved.value.channels);
  node.norm = config_.unet.norm;
  node.statistics = convolved.statistics;
  node.grid = convolved.grid;
  node.groups = config_.unet.norm_groups;
  node.scope = config_.unet.norm_scope;
  const bool rms = node.norm == Norm::kRmsNorm;
  node.weight = copy_of(store_, tensor(name + (rms ? ".gamma" : ".weight")));
  node.bias = rms ? nullptr : copy_of(store_, tensor(name + ".bias"));
  node.film = film;
  const AffineSlot slot = node.slot;
  add(node, {slot.buffer, convolved.statistics});
  return slot;
}

Value PlanBuilder::resnet_block(const std::string& name, const Value& in, int width, bool film,
                                Destination destination) {
  ptrdiff_t film_offset = -1;
  if (film) {
    film_offset = static_cast<ptrdiff_t>(plan_.film_floats);
    plan_.film_blocks.push_back({name, width, film_offset});
    plan_.film_floats += 2 * static_cast<size_t>(width);
  }
  const Norm norm = config_.unet.norm;
  const Convolved first = block_conv(name + ".conv1", in, activation(in.height, in.width, width), std::nullopt);
  std::optional<AffineSlot> pending = norm_affine(name + ".norm1", first, film_offset);
  if (norm == Norm::kRmsNorm) {  // needs a pixel's channels together, so it cannot wait for the next convolution
    add(NormNode{first.value, first.value, *pending, norm, std::nullopt, {}, nullptr},
        {first.value.buffer, pending->buffer});
    pending.reset();
  }
  const Convolved second = block_conv(name + ".conv2", first.value, activation(in.height, in.width, width), pending);

  NormNode last;
  last.in = second.value;
  last.affine = norm_affine(name + ".norm2", second, -1);
  last.norm = norm;
  last.residual = in;
  double cost = 0;
  const bool shortcut = in.channels != width;
  if (shortcut) {
    last.shortcut = pack_linear(packer_, tensor(name + ".shortcut.weight"));
    last.shortcut_bias = padded_vector(packer_, tensor(name + ".shortcut.bias"));
    cost = static_cast<double>(in.pixels()) * in.channels * width;
  }
  last.out = destination ? *destination : shortcut ? activation(in.height, in.width, width) : second.value;
  const Value out = last.out;
  const int affine = last.affine.buffer;
  add(last, {second.value.buffer, in.buffer, out.buffer, affine}, cost);
  return out;
}

// to_qkv and to_out of an attention over all pixels.
double PlanBuilder::projection_cost(const Value& in, int hidden) const {
  return static_cast<double>(in.pixels()) * 4 * hidden * in.channels;
}

Value PlanBuilder::spatial_linear_attention(const std::string& name, const Value& in, Destination destination) {
  SpatialLinearAttentionNode node;
  const TensorView qkv = tensor(name + ".to_qkv.weight"), gamma = tensor(name + ".norm.gamma");
  node.in = in;
  node.out = destination.value_or(in);
  node.heads = config_.unet.linear_heads;
  node.dim = config_.unet.linear_dim_head;
  node.q = arrange_linear_q(packer_, qkv, gamma, node.heads);
  node.kv = arrange_linear_kv(packer_, qkv, gamma, node.heads);
  node.to_out = pack_linear(packer_, tensor(name + ".to_out.weight"));
  node.bias = padded_vector(packer_, tensor(name + ".to_out.bias"));
  const int hidden = node.heads * node.dim;
  const double cost = projection_cost(in, hidden) + static_cast<double>(in.pixels()) * 2 * hidden * node.dim;
  const size_t scratch = linear_attention_scratch(operand_, in.channels, node.heads, node.dim, in.height * in.width);
  const Value out = node.out;
  add(node, {in.buffer, out.buffer}, cost, scratch);
  return out;
}

Value PlanBuilder::temporal_attention(const std::string& name, const Value& in, Destination destination) {
  const UNetConfig& u = config_.unet;
  TemporalAttentionNode node;
  node.in = in;
  node.out = destination.value_or(in);
  node.heads = u.attention_heads;
  node.dim = u.attention_dim_head;
  node.qkv = arrange_qkv(packer_, tensor(name + ".to_qkv.weight"), tensor(name + ".norm.gamma"), node.heads);
  node.to_out = pack_linear(packer_, tensor(name + ".to_out.weight"));
  const int frames = in.frames, sites = in.height * in.width;
  if (u.position_buckets > 0 && position_bias_ == nullptr) {
    position_bias_ = position_bias(packer_, tensor("position_bias.weight"), frames, u.position_max_distance);
  }
  node.position_bias = position_bias_;
  const int tile = temporal_attention_sites(operand_, in.channels, node.heads, node.dim, frames, sites);
  if (u.rotary_dim > 0) node.rotary = rotary_tables(packer_, frames, u.rotary_dim, node.dim, tile);
  const int hidden = node.heads * node.dim;
  const double cost = projection_cost(in, hidden) + static_cast<double>(in.pixels()) * 2 * hidden * frames;
  const size_t scratch = temporal_attention_scratch(operand_, in.channels, node.heads, node.dim, frames, sites);
  const Value out = node.out;
  add(node, {in.buffer, out.buffer}, cost, scratch);
  return out;
}

Value PlanBuilder::spatial_attention(const std::string& name, const Value& in, Destination destination) {
  SpatialAttentionNode node;
  node.in = in;
  node.out = destination.value_or(in);
  node.heads = config_.unet.attention_heads;
  node.dim = config_.unet.attention_dim_head;
  node.qkv = arrange_qkv(packer_, tensor(name + ".to_qkv.weight"), tensor(name + ".norm.gamma"), node.heads);
  node.to_out = pack_linear(packer_, tensor(name + ".to_out.weight"));
  const int hidden = node.heads * node.dim, sites = in.height * in.width;
  const double cost = projection_cost(in, hidden) + static_cast<double>(in.pixels()) * 2 * hidden * sites;
  const size_t scratch = spatial_attention_scratch(operand_, in.channels, node.heads, node.dim, sites);
  const Value out = node.out;
  add(node, {in.buffer, out.buffer}, cost, scratch);
  return out;
}

Value PlanBuilder::temporal_conv(const std::string& name, const Value& in, Destination destination) {
  TemporalConvNode node;
  node.in = in;
  node.out = destination.value_or(in);
  node.weight = pack_temporal_conv(packer_, tensor(name + ".conv.weight"), tensor(name + ".norm.gamma"));
  node.bias = padded_vector(packer_, tensor(name + ".conv.bias"));
  const double cost = static_cast<double>(in.pixels()) * 3 * in.channels * in.channels;
  const size_t scratch = temporal_conv_scratch(operand_, in.channels, in.frames, in.height * in.width);
  const Value out = node.out;
  add(node, {in.buffer, out.buffer}, cost, scratch);
  return out;
}

Value PlanBuilder::level(const std::string& name, int index, const Value& in, int width, Destination destination) {
  const UNetConfig& u = config_.unet;
  const size_t i = static_cast<size_t>(index);
  int left = u.blocks_per_level + u.spatial_linear_attention[i] + u.temporal_attention[i] + u.temporal_conv[i];
  const auto target = [&]() -> Destination { return --left == 0 ? destination : std::nullopt; };
  Value x = in;
  for (int k = 0; k < u.blocks_per_level; ++k)
    x = resnet_block(name + ".blocks." + std::to_string(k), x, width, true, target());
  if (u.spatial_linear_attention[i]) x = spatial_linear_attention(name + ".spatial_attention", x, target());
  if (u.temporal_attention[i]) x = temporal_attention(name + ".temporal_attention", x, target());
  if (u.temporal_conv[i]) x = temporal_conv(name + ".temporal_conv", x, target());
  return x;
}

void PlanBuilder::keep(const std::string& name) {
  TensorView view = tensor(name);
  view.data = copy_of(store_, view);
  plan_.kept.push_back({name, std::move(view)});
}

Plan PlanBuilder::finish() {
  for (Lifetime& life : plan_.buffers) {
    if (life.first < 0) life.first = 0;
  }
  plan_.placement = place_buffers(plan_.buffers);
  return std::move(plan_);
}

}  // namespace gaitcrafter
