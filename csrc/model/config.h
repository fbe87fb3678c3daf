// config.json as plain structs. Fields, ranges and meaning: gaitcrafter_rt/config.py, which judges files alike.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gaitcrafter {

enum class Axis : int { kDataset = 0, kIdentity = 1, kView = 2, kCovariate = 3 };
inline constexpr int kAxes = 4;
inline constexpr std::array<std::string_view, kAxes> kAxisNames = {"dataset", "identity", "view", "covariate"};

enum class Norm { kGroupNorm, kRmsNorm };
enum class NormScope { kClip, kFrame };
enum class Wiring { kNone, kBlockTable, kInputMap };
enum class Prediction { kX0, kEps, kV };
enum class Schedule { kCosine, kLinear };
enum class SamplerKind { kDdpm, kDdim, kDpmpp2m, kDpmpp3m, kUniPc };
enum class Spacing { kLeading, kTrailing, kLinspace };
enum class Thresholding { kNone, kClip, kDynamic };

struct ClipShape {
  int frames = 30, height = 64, width = 64;
};

struct UNetConfig {
  int channels = 1, dim = 64, init_dim = 64;
  std::vector<int> dim_mults{1, 2, 4, 8};
  int blocks_per_level = 2, patch = 1, init_kernel = 7;
  Norm norm = Norm::kGroupNorm;
  NormScope norm_scope = NormScope::kClip;
  int norm_groups = 8;
  int attention_heads = 8, attention_dim_head = 32, linear_heads = 8, linear_dim_head = 32;
  std::vector<bool> spatial_linear_attention, temporal_attention, temporal_conv;  // per level, finest first
  bool init_temporal_attention = true, mid_spatial_attention = true, mid_temporal_attention = true;
  int rotary_dim = 32, position_buckets = 32, position_max_distance = 32;
  bool positional_embedding = false;
};

struct Conditioning {
  std::array<Wiring, kAxes> wiring{};
  int encoder_dim = 64, cond_dim = 0;
  std::array<bool, kAxes> has_cond_columns{};  // per axis: may its labels be given by index
  std::array<std::vector<int>, kAxes> cond_columns;
  bool guidance_trained = false;
};

struct SamplerSettings {
  SamplerKind kind = SamplerKind::kDdim;
  int steps = 20;
  double eta = 0.0;
  Spacing spacing = Spacing::kTrailing;
  Thresholding thresholding = Thresholding::kClip;
  double dynamic_percentile = 0.9;
  bool rederive_eps = true;
  double guidance = 1.0;
};

struct Diffusion {
  Prediction prediction = Prediction::kEps;
  Schedule schedule = Schedule::kCosine;
  int timesteps = 1000;
};

// The 3x3 convolutions of ResNet blocks that carry calibrated input ranges: tensors LAYER.input_low and
// LAYER.input_high, one value per input channel. No layers: the model has none.
struct Quantisation {
  std::vector<std::string> layers;
  int clips = 0;
  std::string method;
};

struct ModelConfig {
  int format_version = 1;
  std::string name;
  ClipShape clip;
  UNetConfig unet;
  Conditioning conditioning;
  std::array<std::vector<std::string>, kAxes> labels;
  Diffusion diffusion;
  SamplerSettings sampler;
  std::string training_data, training_data_terms, identities, command, notes;
  Quantisation quantisation;
};

// Parses and validates; throws kModelFormat or kUnsupportedVersion, naming `source` and the field.
ModelConfig parse_config(std::string_view json, const std::string& source);

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};

// Every tensor that a model with this config holds, no more and no less (docs/architecture.md, "The network").
// Throws kModelFormat if quantisation.layers names anything but a 3x3 convolution of a ResNet block.
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);

}  // namespace gaitcrafter
