#include "unet/plan.h"

#include "unet/blocks.h"
#include "unet/conditions.h"

namespace gaitcrafter {

// Skips are written straight into the second half of the buffer that the way up reads as a concatenation; what comes
// from below is written into the first half.
Plan build_plan(const ModelPackage& package, Precision precision, const OpTable& ops, const OpTable& fp32,
                WeightStore& store) {
  const ModelConfig& config = package.config();
  const UNetConfig& u = config.unet;
  PlanBuilder b(package, precision, ops, fp32, store);
  const int levels = static_cast<int>(u.dim_mults.size());
  const auto width = [&](int i) { return i < 0 ? u.init_dim : u.dim * u.dim_mults[static_cast<size_t>(i)]; };
  const auto height_at = [&](int i) { return config.clip.height / u.patch >> i; };
  const auto width_at = [&](int i) { return config.clip.width / u.patch >> i; };
  const auto joined = [&](int i, int channels) { return b.activation(height_at(i), width_at(i), 2 * channels); };
  const auto below = [](const Value& v) { return PlanBuilder::channels_of(v, 0, v.channels / 2); };
  const auto skip = [](const Value& v) { return PlanBuilder::channels_of(v, v.channels / 2, v.channels / 2); };

  const Value patches = b.activation(height_at(0), width_at(0), u.channels * u.patch * u.patch);
  b.unshuffle(patches);
  const Value last = joined(0, u.init_dim);
  Value x = skip(last);
  b.conv("init_conv", patches, x, 1);
  if (u.positional_embedding) b.positional(x);
  if (u.init_temporal_attention) b.temporal_attention("init_temporal_attention", x, x);

  std::vector<Value> joins;
  for (int i = 0; i < levels; ++i) {
    joins.push_back(joined(i, width(i)));
    x = b.level("downs." + std::to_string(i), i, x, width(i), skip(joins.back()));
    if (i + 1 == levels) break;
    const Value smaller = b.activation(height_at(i + 1), width_at(i + 1), width(i));
    b.conv("downs." + std::to_string(i) + ".downsample", x, smaller, 2);
    x = smaller;
  }

  x = b.resnet_block("mid_block1", x, width(levels - 1), true, std::nullopt);
  if (u.mid_spatial_attention) x = b.spatial_attention("mid_spatial_attention", x, std::nullopt);
  if (u.mid_temporal_attention) x = b.temporal_attention("mid_temporal_attention", x, std::nullopt);
  b.resnet_block("mid_block2", x, width(levels - 1), true, below(joins.back()));

  for (int i = levels - 1; i >= 0; --i) {
    const std::string name = "ups." + std::to_string(levels - 1 - i);
    if (i == 0) {
      b.level(name, i, joins[0], width(-1), below(last));
      break;
    }
    x = b.level(name, i, joins[static_cast<size_t>(i)], width(i - 1), std::nullopt);
    b.upsample(name + ".upsample", x, below(joins[static_cast<size_t>(i - 1)]));
  }

  // Near t = T an eps-model's error is multiplied by up to 64,166 (docs/samplers.md): its last layer stays fp32.
  const bool exact = config.diffusion.prediction == Prediction::kEps;
  std::optional<Value> features;
  if (exact) features = b.activation(height_at(0), width_at(0), u.dim, DType::kF32);
  x = b.resnet_block("final_block", last, u.dim, false, features);
  const Value out = b.activation(height_at(0), width_at(0), u.channels * u.patch * u.patch, DType::kF32);
  b.linear("final_conv", x, out, exact);
  b.shuffle(out);
  for (const TensorSpec& tensor : expected_tensors(config))
    if (read_by_runs(tensor.name)) b.keep(tensor.name);
  return b.finish();
}

}  // namespace gaitcrafter
