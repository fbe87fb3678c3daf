#include "model/config.h"

#include <algorithm>
#include <unordered_set>

#include "model/json_fields.h"

namespace gaitcrafter {

using nlohmann::json;

namespace {

constexpr size_t kMaxConfigBytes = 16u << 20;
constexpr int kMaxDepth = 16;           // a valid file nests 4 deep
constexpr size_t kMaxValues = 1 << 20;  // a valid file holds fewer than 200,000
constexpr int kNewestVersion = 2;
constexpr int kMaxWidth = 4096;
constexpr std::array<size_t, kAxes> kMaxLabels = {1024, 65536, 4096, 4096};

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kModelFormat, message); }

// The object called `name` in `parent`, read by `reader`; absent means all defaults.
template <typename Reader>
void section(JsonFields& parent, std::string_view name, Reader reader) {
  if (const json* value = parent.find(name)) {
    JsonFields fields(*value, parent.where(name));
    reader(fields);
    fields.finish();
  }
}

void read_clip(JsonFields& f, ClipShape& clip) {
  f.read("frames", clip.frames, 1, 512);
  f.read("height", clip.height, 4, 512);
  f.read("width", clip.width, 4, 512);
}

void read_unet(JsonFields& f, UNetConfig& u) {
  f.read("channels", u.channels, 1, 16);
  f.read("dim", u.dim, 4, 1024);
  f.read("init_dim", u.init_dim, 4, 1024);
  f.read("dim_mults", u.dim_mults, 1, 64, 1, 8);
  f.read("blocks_per_level", u.blocks_per_level, 1, 2);
  f.read_choice("patch", u.patch, {1, 2, 4, 8});
  f.read_choice("init_kernel", u.init_kernel, {1, 3, 5, 7});
  f.read_name<Norm>("norm", u.norm, {{"group_norm", Norm::kGroupNorm}, {"rms_norm", Norm::kRmsNorm}});
  f.read_name<NormScope>("norm_scope", u.norm_scope, {{"clip", NormScope::kClip}, {"frame", NormScope::kFrame}});
  f.read("norm_groups", u.norm_groups, 1, 256);
  f.read("attention_heads", u.attention_heads, 1, 64);
  f.read("attention_dim_head", u.attention_dim_head, 2, 256);
  f.read("linear_heads", u.linear_heads, 1, 64);
  f.read("linear_dim_head", u.linear_dim_head, 2, 256);
  f.read("spatial_linear_attention", u.spatial_linear_attention);
  f.read("temporal_attention", u.temporal_attention);
  f.read("temporal_conv", u.temporal_conv);
  f.read("init_temporal_attention", u.init_temporal_attention);
  f.read("mid_spatial_attention", u.mid_spatial_attention);
  f.read("mid_temporal_attention", u.mid_temporal_attention);
  f.read("rotary_dim", u.rotary_dim, 0, 256);
  f.read("position_buckets", u.position_buckets, 0, 256);
  f.read("position_max_distance", u.position_max_distance, 1, 4096);
  f.read("positional_embedding", u.positional_embedding);
}

void check_unet(const UNetConfig& u, const std::string& path) {
  const size_t levels = u.dim_mults.size();
  const std::pair<const char*, const std::vector<bool>*> lists[] = {
      {"spatial_linear_attention", &u.spatial_linear_attention},
      {"temporal_attention", &u.temporal_attention},
      {"temporal_conv", &u.temporal_conv}};
  for (const auto& [name, list] : lists) {
    if (list->size() != levels) {
      refuse(path + "." + name + " has " + std::to_string(list->size()) + " entries, dim_mults has " +
             std::to_string(levels) + "; give one per level");
    }
  }
  if (u.dim % 2 != 0) refuse(path + ".dim is " + std::to_string(u.dim) + "; the time embedding needs an even number");
  std::vector<int> widths = {u.dim, u.init_dim};
  for (const int m : u.dim_mults) {
    if (u.dim * m > kMaxWidth) {
      refuse(path + ": dim * dim_mults is " + std::to_string(u.dim * m) + "; at most " + std::to_string(kMaxWidth) +
             " is allowed");
    }
    widths.push_back(u.dim * m);
  }
  for (const int width : widths) {
    if (u.norm == Norm::kGroupNorm && width % u.norm_groups != 0) {
      refuse(path + ".norm_groups " + std::to_string(u.norm_groups) + " does not divide the width " +
             std::to_string(width));
    }
  }
  if (u.rotary_dim % 2 != 0 || u.rotary_dim > u.attention_dim_head) {
    refuse(path + ".rotary_dim " + std::to_string(u.rotary_dim) + " must be even and at most " +
           std::to_string(u.attention_dim_head));
  }
  if (u.position_buckets % 4 != 0) {
    refuse(path + ".position_buckets is " + std::to_string(u.position_buckets) +
           "; it must be a multiple of 4 (0 = no bias)");
  }
  if (u.position_buckets != 0 && u.position_max_distance <= u.position_buckets / 4) {
    refuse(path + ".position_max_distance must exceed position_buckets / 4");
  }
}

void read_conditioning(JsonFields& f, Conditioning& c) {
  for (int a = 0; a < kAxes; ++a) {
    f.read_name<Wiring>(
        kAxisNames[a], c.wiring[a],
        {{"none", Wiring::kNone}, {"block_table", Wiring::kBlockTable}, {"input_map", Wiring::kInputMap}});
  }
  f.read("encoder_dim", c.encoder_dim, 1, 1024);
  f.read("cond_dim", c.cond_dim, 0, 65536);
  f.read("guidance_trained", c.guidance_trained);
  const json* columns = f.find("cond_columns");
  if (columns == nullptr || columns->is_null()) return;
  JsonFields per_axis(*columns, f.where("cond_columns"));
  for (int a = 0; a < kAxes; ++a) {
    c.has_cond_columns[a] = columns->contains(kAxisNames[a]);
    per_axis.read(kAxisNames[a], c.cond_columns[a], 0, std::max(c.cond_dim - 1, 0), 0, kMaxLabels[a]);
  }
  per_axis.finish();
}

void read_labels(JsonFields& f, std::array<std::vector<std::string>, kAxes>& labels) {
  for (int a = 0; a < kAxes; ++a) {
    f.read(kAxisNames[a], labels[a], 128, kMaxLabels[a]);
    std::unordered_set<std::string_view> names;
    for (const std::string& name : labels[a]) {
      if (!names.insert(name).second) {
        refuse(f.where(kAxisNames[a]) + " holds the name " + brief(json(name)) + " twice");
      }
    }
  }
}

void read_diffusion(JsonFields& f, Diffusion& d) {
  f.read_name<Prediction>("prediction", d.prediction,
                          {{"x0", Prediction::kX0}, {"eps", Prediction::kEps}, {"v", Prediction::kV}});
  f.read_name<Schedule>("schedule", d.schedule, {{"cosine", Schedule::kCosine}, {"linear", Schedule::kLinear}});
  f.read("timesteps", d.timesteps, 1, 100000);
}

void read_sampler(JsonFields& f, SamplerSettings& s) {
  f.read_name<SamplerKind>("kind", s.kind,
                           {{"ddpm", SamplerKind::kDdpm},
                            {"ddim", SamplerKind::kDdim},
                            {"dpmpp_2m", SamplerKind::kDpmpp2m},
                            {"dpmpp_3m", SamplerKind::kDpmpp3m},
                            {"unipc", SamplerKind::kUniPc}});
  f.read("steps", s.steps, 1, 100000);
  f.read("eta", s.eta, 0, 1);
  f.read_name<Spacing>(
      "spacing", s.spacing,
      {{"leading", Spacing::kLeading}, {"trailing", Spacing::kTrailing}, {"linspace", Spacing::kLinspace}});
  f.read_name<Thresholding>(
      "thresholding", s.thresholding,
      {{"none", Thresholding::kNone}, {"clip", Thresholding::kClip}, {"dynamic", Thresholding::kDynamic}});
  f.read("dynamic_percentile", s.dynamic_percentile, 0, 1, true, true);
  f.read("rederive_eps", s.rederive_eps);
  f.read("guidance", s.guidance, 0, 100);
}

void read_provenance(JsonFields& f, ModelConfig& c) {
  f.read("training_data", c.training_data, 0, 4096);
  f.read("training_data_terms", c.training_data_terms, 0, 4096);
  f.read_name<std::string>(
      "identities", c.identities,
      {{"real", "real"}, {"blended", "blended"}, {"rendered", "rendered"}, {"unknown", "unknown"}});
  f.read("command", c.command, 0, 16384);
  f.read("notes", c.notes, 0, 16384);
}

// Format version 2 only; null is the same as absent.
void read_quantisation(JsonFields& top, Quantisation& q) {
  const json* value = top.find("quantisation");
  if (value == nullptr || value->is_null()) return;
  JsonFields f(*value, top.where("quantisation"));
  f.read("layers", q.layers, 128, 128);
  f.read("clips", q.clips, 0, 1'000'000);
  f.read("method", q.method, 0, 1024);
  f.finish();
  if (q.layers.empty())
    refuse(f.where("layers") + " must name at least one convolution; leave quantisation out instead");
  const std::unordered_set<std::string_view> unique(q.layers.begin(), q.layers.end());
  if (unique.size() != q.layers.size()) refuse(f.where("layers") + " holds the same name twice");
}

void check_whole(const ModelConfig& c, const std::string& source) {
  const int shrink = c.unet.patch << (c.unet.dim_mults.size() - 1);
  const std::pair<const char*, int> sizes[] = {{"height", c.clip.height}, {"width", c.clip.width}};
  for (const auto& [name, size] : sizes) {
    if (size % shrink != 0) {
      refuse(source + ": clip." + name + " is " + std::to_string(size) + "; patch and levels need a multiple of " +
             std::to_string(shrink));
    }
  }
  if (c.sampler.steps > c.diffusion.timesteps) {
    refuse(source + ": sampler.steps " + std::to_string(c.sampler.steps) + " exceeds diffusion.timesteps " +
           std::to_string(c.diffusion.timesteps));
  }
  for (int a = 0; a < kAxes; ++a) {
    const std::string axis(kAxisNames[a]);
    if (c.conditioning.wiring[a] != Wiring::kNone && c.labels[a].empty()) {
      refuse(source + ": conditioning." + axis + " is wired but labels." + axis + " is empty");
    }
    if (c.conditioning.wiring[a] != Wiring::kNone && c.conditioning.cond_dim != 0) {
      refuse(source + ": cond_dim and label wiring exclude each other");
    }
    if (!c.conditioning.has_cond_columns[a]) continue;
    if (c.conditioning.cond_columns[a].size() != c.labels[a].size()) {
      refuse(source + ": cond_columns." + axis + " needs one column per label of labels." + axis);
    }
    for (const int column : c.conditioning.cond_columns[a]) {
      if (column >= c.conditioning.cond_dim) {
        refuse(source + ": cond_columns." + axis + " has a column outside 0.." +
               std::to_string(c.conditioning.cond_dim - 1));
      }
    }
  }
}

void check_layers(const ModelConfig& c, const std::string& where) {
  try {
    expected_tensors(c);
  } catch (const Error& e) {
    refuse(where + ": " + e.what());
  }
}

void check_format(const json& root, const std::string& source) {
  const auto format = root.is_object() ? root.find("format") : root.end();
  if (!root.is_object() || format == root.end() || *format != "gaitcrafter-model") {
    refuse(source + ": not a model config; expected an object with \"format\": \"gaitcrafter-model\"");
  }
  const auto version = root.find("format_version");
  if (version == root.end()) return;
  // An integer too big for 64 bits arrives as a float; it is still newer.
  const bool newer = version->is_number_integer() ? !integer_in(*version, INT64_MIN, kNewestVersion)
                                                  : version->is_number_float() && version->get<double>() >= 0x1p63;
  if (newer) {
    throw Error(Status::kUnsupportedVersion, source + ": format_version " + brief(*version) + " is newer than " +
                                                 std::to_string(kNewestVersion) +
                                                 ", the newest this release reads; upgrade gaitcrafter-rt");
  }
}

}  // namespace

ModelConfig parse_config(std::string_view text, const std::string& source) {
  if (text.size() > kMaxConfigBytes) {
    refuse(source + ": " + std::to_string(text.size()) + " bytes; a config is at most 16 MiB");
  }
  const json root = parse_json(text, source, kMaxDepth, kMaxValues);
  check_format(root, source);
  ModelConfig c;
  c.name = "unnamed";
  c.training_data = c.training_data_terms = c.identities = "unknown";
  c.unet.spatial_linear_attention = c.unet.temporal_attention = {true, true, true, true};
  c.unet.temporal_conv = {false, false, false, false};
  JsonFields top(root, source);
  top.find("format");
  top.read_choice("format_version", c.format_version, {1, kNewestVersion});
  top.read("name", c.name, 1, 128);
  section(top, "clip", [&](JsonFields& f) { read_clip(f, c.clip); });
  section(top, "unet", [&](JsonFields& f) { read_unet(f, c.unet); });
  section(top, "conditioning", [&](JsonFields& f) { read_conditioning(f, c.conditioning); });
  section(top, "labels", [&](JsonFields& f) { read_labels(f, c.labels); });
  section(top, "diffusion", [&](JsonFields& f) { read_diffusion(f, c.diffusion); });
  section(top, "sampler", [&](JsonFields& f) { read_sampler(f, c.sampler); });
  section(top, "provenance", [&](JsonFields& f) { read_provenance(f, c); });
  if (c.format_version >= 2) read_quantisation(top, c.quantisation);
  top.finish();
  check_unet(c.unet, top.where("unet"));
  check_whole(c, source);
  if (!c.quantisation.layers.empty()) check_layers(c, top.where("quantisation.layers"));
  return c;
}

}  // namespace gaitcrafter
