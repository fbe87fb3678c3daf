#include "model/tensors.h"

#include <string_view>
#include <unordered_map>

#include "core/error.h"
#include "model/json_fields.h"

namespace gaitcrafter {

namespace {

// Walks the network in the order of docs/architecture.md and notes every tensor.
class Inventory {
 public:
  explicit Inventory(const ModelConfig& config) : config_(config), u_(config.unet) {}

  std::vector<TensorSpec> list() {
    conditions();
    stem();
    std::vector<int64_t> dims = {u_.init_dim};
    for (const int m : u_.dim_mults) dims.push_back(int64_t{u_.dim} * m);
    const size_t levels = u_.dim_mults.size();
    for (size_t i = 0; i < levels; ++i) {
      const std::string p = "downs." + std::to_string(i) + ".";
      level(p, i, dims[i], dims[i + 1]);
      if (i + 1 < levels) conv(p + "downsample", dims[i + 1], dims[i + 1], 4);
    }
    block("mid_block1.", dims.back(), dims.back(), true);
    if (u_.mid_spatial_attention) attention("mid_spatial_attention.", dims.back());
    if (u_.mid_temporal_attention) attention("mid_temporal_attention.", dims.back());
    block("mid_block2.", dims.back(), dims.back(), true);
    for (size_t j = 0; j < levels; ++j) {
      const size_t i = levels - 1 - j;
      const std::string p = "ups." + std::to_string(j) + ".";
      level(p, i, 2 * dims[i + 1], dims[i]);
      if (i > 0) conv(p + "upsample", dims[i], dims[i], 4);
    }
    block("final_block.", 2 * int64_t{u_.init_dim}, u_.dim, false);
    conv("final_conv", stem_channels(), u_.dim, 1);
    ranges();
    return std::move(out_);
  }

 private:
  int64_t stem_channels() const { return int64_t{u_.channels} * u_.patch * u_.patch; }
  int64_t labels(int axis) const { return static_cast<int64_t>(config_.labels[axis].size()); }

  void add(std::string name, std::vector<int64_t> shape) { out_.push_back({std::move(name), std::move(shape)}); }

  void linear(const std::string& p, int64_t out, int64_t in, bool bias) {
    add(p + ".weight", {out, in});
    if (bias) add(p + ".bias", {out});
  }

  void conv(const std::string& p, int64_t out, int64_t in, int64_t k) {
    add(p + ".weight", {out, in, k, k});
    add(p + ".bias", {out});
  }

  void conditions() {
    const Conditioning& c = config_.conditioning;
    const int64_t map = int64_t{u_.channels} * config_.clip.height * config_.clip.width;
    for (int a = 0; a < kAxes; ++a) {
      if (c.wiring[a] != Wiring::kInputMap) continue;
      const std::string p = "input_maps." + std::string(kAxisNames[a]);
      add(p + ".embedding", {labels(a) + 1, c.encoder_dim});
      linear(p + ".proj", map, c.encoder_dim, true);
    }
    if (c.cond_dim > 0) add("null_cond", {c.cond_dim});
  }

  void stem() {
    const int64_t dim = u_.dim;
    linear("time_mlp.linear1", 4 * dim, dim, true);
    linear("time_mlp.linear2", 4 * dim, 4 * dim, true);
    if (u_.position_buckets > 0) add("position_bias.weight", {u_.position_buckets, u_.attention_heads});
    conv("init_conv", u_.init_dim, stem_channels(), u_.init_kernel);
    if (u_.positional_embedding) {
      add("positional.spatial", {u_.init_dim, config_.clip.height / u_.patch, config_.clip.width / u_.patch});
      add("positional.frame", {config_.clip.frames, u_.init_dim});
    }
    if (u_.init_temporal_attention) attention("init_temporal_attention.", u_.init_dim);
  }

  void norm(const std::string& p, int64_t width) {
    if (u_.norm == Norm::kRmsNorm) {
      add(p + ".gamma", {width});
    } else {
      add(p + ".weight", {width});
      add(p + ".bias", {width});
    }
  }

  void block(const std::string& p, int64_t in, int64_t out, bool modulated) {
    conv(p + "conv1", out, in, 3);
    norm(p + "norm1", out);
    conv(p + "conv2", out, out, 3);
    norm(p + "norm2", out);
    if (modulated) {
      linear(p + "film", 2 * out, 4 * int64_t{u_.dim} + config_.conditioning.cond_dim, true);
      for (int a = 0; a < kAxes; ++a) {
        if (config_.conditioning.wiring[a] == Wiring::kBlockTable) {
          add(p + "tables." + std::string(kAxisNames[a]), {labels(a) + 1, 2 * out});
        }
      }
    }
    if (in != out) conv(p + "shortcut", out, in, 1);
  }

  // Temporal or full spatial attention.
  void attention(const std::string& p, int64_t width) {
    const int64_t hidden = int64_t{u_.attention_heads} * u_.attention_dim_head;
    add(p + "norm.gamma", {width});
    linear(p + "to_qkv", 3 * hidden, width, false);
    linear(p + "to_out", width, hidden, false);
  }

  void level(const std::string& p, size_t i, int64_t in, int64_t out) {
    for (int k = 0; k < u_.blocks_per_level; ++k) {
      block(p + "blocks." + std::to_string(k) + ".", k == 0 ? in : out, out, true);
    }
    if (u_.spatial_linear_attention[i]) {
      const int64_t hidden = int64_t{u_.linear_heads} * u_.linear_dim_head;
      add(p + "spatial_attention.norm.gamma", {out});
      linear(p + "spatial_attention.to_qkv", 3 * hidden, out, false);
      linear(p + "spatial_attention.to_out", out, hidden, true);
    }
    if (u_.temporal_attention[i]) attention(p + "temporal_attention.", out);
    if (u_.temporal_conv[i]) {
      add(p + "temporal_conv.norm.gamma", {out});
      add(p + "temporal_conv.conv.weight", {out, out, 3});
      add(p + "temporal_conv.conv.bias", {out});
    }
  }

  // Two tensors per quantised layer, as long as the input of its convolution is wide.
  void ranges() {
    std::unordered_map<std::string, int64_t> widths;
    for (const TensorSpec& t : out_) {
      const std::string_view name = t.name;
      if (name.ends_with(".conv1.weight") || name.ends_with(".conv2.weight")) {
        widths.emplace(name.substr(0, name.rfind('.')), t.shape[1]);
      }
    }
    for (const std::string& layer : config_.quantisation.layers) {
      const auto it = widths.find(layer);
      if (it == widths.end()) {
        throw Error(Status::kModelFormat, "this network has no ResNet convolution " + brief(nlohmann::json(layer)));
      }
      add(layer + ".input_low", {it->second});
      add(layer + ".input_high", {it->second});
    }
  }

  const ModelConfig& config_;
  const UNetConfig& u_;
  std::vector<TensorSpec> out_;
};

}  // namespace

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) { return Inventory(config).list(); }

std::optional<uint64_t> element_count(std::span<const int64_t> shape) {
  constexpr uint64_t kLimit = uint64_t{1} << 62;
  uint64_t n = 1;
  for (const int64_t d : shape) {
    if (d < 0) return std::nullopt;
    const uint64_t size = static_cast<uint64_t>(d);
    if (size != 0 && n > kLimit / size) return std::nullopt;
    n *= size;
  }
  return n;
}

uint64_t total_fp32_bytes(std::span<const TensorSpec> tensors, const std::string& source) {
  uint64_t total = 0;
  for (const TensorSpec& t : tensors) {
    const auto n = element_count(t.shape);
    // Each term is below the limit before it is added, so the sum cannot wrap.
    if (!n || *n > kMaxTensorBytes / sizeof(float) || (total += *n * sizeof(float)) > kMaxTensorBytes) {
      throw Error(Status::kModelFormat, source + ": the tensors of this config come to more than 8 GiB (at " + t.name +
                                            "); no model of that size is run by this engine");
    }
  }
  return total;
}

}  // namespace gaitcrafter
