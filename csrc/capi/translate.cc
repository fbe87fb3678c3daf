#include "capi/translate.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

namespace gaitcrafter {

namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }

// One of the values 0 .. last, or the default.
int choice(int32_t value, int fallback, int last, const char* name) {
  if (value == GC_MODEL_DEFAULT) return fallback;
  if (value < 0 || value > last) {
    refuse(std::string(name) + " is " + std::to_string(value) + "; allowed are 0 to " + std::to_string(last) +
           ", or -1 for the model's default");
  }
  return value;
}

double number(double value, double fallback, const char* name) {
  if (std::isnan(value)) refuse(std::string(name) + " is not a number");
  return value < 0 ? fallback : value;
}

}  // namespace

void check_struct(const char* name, uint32_t struct_size, uint32_t version, size_t known_size) {
  if (version == 0 || struct_size < known_size) {
    refuse(std::string(name) + " says size " + std::to_string(struct_size) + " and version " + std::to_string(version) +
           "; version " + std::to_string(std::max(version, 1u)) + " has " + std::to_string(known_size) +
           " bytes: start from " + name + "_default()");
  }
  if (version > GC_ABI_VERSION) {
    throw Error(Status::kUnsupportedVersion, std::string(name) + " is of version " + std::to_string(version) +
                                                 "; this library knows versions up to " +
                                                 std::to_string(GC_ABI_VERSION) + ", upgrade gaitcrafter-rt");
  }
}

gc_request checked_request(const gc_request* request) {
  if (request == nullptr) refuse("gc_request is NULL");
  const size_t size = request->version < 2 ? offsetof(gc_request, mode) : sizeof(gc_request);
  check_struct("gc_request", request->struct_size, request->version, size);
  gc_request whole = gc_request_default();
  std::memcpy(&whole, request, size);
  return whole;
}

EngineOptions to_options(const gc_options* options) {
  EngineOptions out;
  if (options == nullptr) return out;
  const size_t size = options->version < 3 ? offsetof(gc_options, backend) : sizeof(gc_options);
  check_struct("gc_options", options->struct_size, options->version, size);
  gc_options o = gc_options_default();
  std::memcpy(&o, options, size);
  if (o.device != nullptr) out.device = o.device;
  if (o.precision != nullptr) out.precision = o.precision;
  if (o.isa != nullptr) out.isa = o.isa;
  out.threads = o.threads;
  if (o.backend != nullptr) out.backend = o.backend;
  if (o.library != nullptr) out.library = o.library;
  if (o.plan != nullptr) out.plan = o.plan;
  out.batch = o.batch;
  return out;
}

SamplerChoice to_sampler(const gc_sampler* sampler, const ModelConfig& config) {
  SamplerChoice out{config.sampler, {true, true, true, true}};
  if (sampler == nullptr) return out;
  const gc_sampler& s = checked(sampler, "gc_sampler");
  SamplerSettings& d = out.settings;
  const SamplerKind kind = static_cast<SamplerKind>(choice(s.kind, static_cast<int>(d.kind), 4, "sampler kind"));
  // The model's eta belongs to its own sampler; another kind may have none.
  const double eta = kind == d.kind || kind == SamplerKind::kDdim ? d.eta : 0.0;
  d.kind = kind;
  d.steps = s.steps == 0 ? d.steps : s.steps;
  d.eta = number(s.eta, eta, "eta");
  d.spacing = static_cast<Spacing>(choice(s.spacing, static_cast<int>(d.spacing), 2, "spacing"));
  d.thresholding =
      static_cast<Thresholding>(choice(s.thresholding, static_cast<int>(d.thresholding), 2, "thresholding"));
  d.dynamic_percentile = number(s.dynamic_percentile, d.dynamic_percentile, "dynamic_percentile");
  d.rederive_eps = choice(s.rederive_eps, d.rederive_eps ? 1 : 0, 1, "rederive_eps") == 1;
  d.guidance = number(s.guidance, d.guidance, "guidance");
  if (s.null_axes >> kAxes != 0)
    refuse("null_axes " + std::to_string(s.null_axes) + " names an axis beyond the fourth");
  for (int a = 0; a < kAxes; ++a) out.null_axes[a] = s.null_axes == 0 || (s.null_axes >> a & 1) != 0;
  return out;
}

gc_sampler from_sampler(const SamplerChoice& choice) {
  const SamplerSettings& settings = choice.settings;
  gc_sampler s = gc_sampler_default();
  s.kind = static_cast<int32_t>(settings.kind);
  s.steps = settings.steps;
  s.eta = settings.eta;
  s.spacing = static_cast<int32_t>(settings.spacing);
  s.thresholding = static_cast<int32_t>(settings.thresholding);
  s.dynamic_percentile = settings.dynamic_percentile;
  s.rederive_eps = settings.rederive_eps ? 1 : 0;
  for (int a = 0; a < kAxes; ++a) s.null_axes |= choice.null_axes[a] ? 1u << a : 0u;
  s.guidance = settings.guidance;
  return s;
}

ConditionRequest to_conditions(const gc_conditions* conditions) {
  ConditionRequest out;
  if (conditions == nullptr) return out;
  const gc_conditions& c = checked(conditions, "gc_conditions");
  for (int a = 0; a < kAxes; ++a) out.axes[a] = {c.axes[a].offsets, c.axes[a].labels, c.axes[a].weights};
  out.cond = c.cond;
  out.cond_given = c.cond_given;
  return out;
}

GenerateRequest to_request(const gc_request& r, const ModelConfig& config) {
  GenerateRequest out;
  out.seed = r.seed;
  out.start = r.start;
  out.count = r.count;
  out.clip_indices = r.clip_indices;
  out.conditions = to_conditions(r.conditions);
  const SamplerChoice sampler = to_sampler(r.sampler, config);
  out.sampler = sampler.settings;
  out.null_axes = sampler.null_axes;
  out.threshold = r.threshold;
  if (r.mode < GC_MODE_AUTO || r.mode > GC_MODE_LATENCY) {
    refuse("mode is " + std::to_string(r.mode) + "; allowed are 0 (auto), 1 (throughput) and 2 (latency)");
  }
  out.mode = static_cast<Mode>(r.mode);
  out.initial_noise = r.initial_noise;
  if (r.progress != nullptr) {
    out.keep_going = [callback = r.progress, user = r.progress_user](const Progress& p) {
      const gc_progress now = {sizeof(gc_progress), GC_ABI_VERSION, p.steps_done,
                               p.steps_total,       p.clips_done,   p.clips_total};
      return callback(user, &now) == 0;
    };
  }
  return out;
}

GenerateOutput to_output(const gc_output& o) {
  if (o.x0 == nullptr && o.x0_size != 0) refuse("x0 is NULL but x0_size is " + std::to_string(o.x0_size));
  if (o.x0 != nullptr && o.x0_size == 0) refuse("x0 is given but x0_size is 0");
  GenerateOutput out;
  if (o.packed == nullptr) refuse("packed is NULL");
  out.packed = {o.packed, static_cast<size_t>(o.packed_size)};
  if (o.x0 != nullptr) out.x0 = {o.x0, static_cast<size_t>(o.x0_size)};
  return out;
}

}  // namespace gaitcrafter
