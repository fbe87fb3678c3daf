// The C interface: every function turns exceptions into a status and a message.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>
#include <string>

#include "cache/packed_cache.h"
#include "capi/guard.h"
#include "capi/handles.h"
#include "capi/translate.h"
#include "core/processor_rate.h"
#include "noise/normal.h"
#include "sampler/pack.h"

namespace {

using namespace gaitcrafter;

void fill_info(const Engine& engine, gc_info& info) {
  const ModelConfig& c = engine.config();
  info.channels = c.unet.channels;
  info.frames = c.clip.frames;
  info.height = c.clip.height;
  info.width = c.clip.width;
  info.timesteps = c.diffusion.timesteps;
  info.cond_dim = c.conditioning.cond_dim;
  for (int a = 0; a < kAxes; ++a) {
    info.label_count[a] = static_cast<int32_t>(c.labels[a].size());
    info.label_usable[a] = axis_usable(c, a) ? 1 : 0;
  }
  info.guidance_trained = c.conditioning.guidance_trained ? 1 : 0;
  info.threads = engine.threads();
  info.clip_floats = engine.clip_floats();
  info.packed_bytes = engine.packed_bytes();
  info.flops_per_call = engine.flops();
  info.sampler = from_sampler(to_sampler(nullptr, c));
  info.name = c.name.c_str();
  info.model_sha256 = engine.model_sha256().c_str();
  info.device = engine.identity().device.c_str();
  info.precision = engine.identity().precision.c_str();
  info.isa = engine.isa().empty() ? "" : engine.isa().data();  // a literal, so it ends with a zero
  info.training_data = c.training_data.c_str();
  info.training_data_terms = c.training_data_terms.c_str();
  info.identities = c.identities.c_str();
  info.command = c.command.c_str();
  info.notes = c.notes.c_str();
}

}  // namespace

extern "C" {

gc_status gc_engine_open(const char* path, const gc_options* options, gc_engine** engine) {
  return guarded([&] {
    given(engine, "engine") = nullptr;
    *engine = new gc_engine{Engine(std::string(&given(path, "path")), to_options(options))};
  });
}

void gc_engine_close(gc_engine* engine) { delete engine; }

gc_status gc_engine_info(const gc_engine* engine, gc_info* info) {
  return guarded([&] {
    const Engine& e = given(engine, "engine").engine;
    checked(info, "gc_info");
    fill_info(e, *info);
  });
}

gc_status gc_engine_backend(const gc_engine* engine, gc_backend* backend) {
  return guarded([&] {
    const NetworkIdentity& i = given(engine, "engine").engine.identity();
    checked(backend, "gc_backend");
    backend->batch = i.batch;
    backend->name = i.backend.c_str();
    backend->sha256 = i.sha256.c_str();
    backend->runtime = i.runtime.c_str();
  });
}

gc_status gc_engine_weights_from(const gc_engine* engine, const char** text) {
  return guarded([&] {
    constexpr const char* kNames[] = {"memory", "written", "cache"};
    given(text, "text") = kNames[static_cast<int>(given(engine, "engine").engine.weights_from())];
  });
}

gc_status gc_engine_label(const gc_engine* engine, int32_t axis, int32_t index, const char** text, size_t* length) {
  return guarded([&] {
    const ModelConfig& c = given(engine, "engine").engine.config();
    const auto& labels = c.labels[checked_axis(axis)];
    if (index < 0 || static_cast<size_t>(index) >= labels.size()) {
      refuse(std::string(kAxisNames[axis]) + " index " + std::to_string(index) + " is not one of this model's " +
             vocabulary_text(c, axis));
    }
    given(text, "text") = labels[static_cast<size_t>(index)].c_str();
    given(length, "length") = labels[static_cast<size_t>(index)].size();
  });
}

gc_status gc_engine_find_label(const gc_engine* engine, int32_t axis, const char* text, size_t length, int32_t* index) {
  return guarded([&] {
    const ModelConfig& c = given(engine, "engine").engine.config();
    given(index, "index") = find_label(c, checked_axis(axis), {&given(text, "text"), length});
  });
}

gc_status gc_generate(gc_engine* engine, const gc_request* request, const gc_output* output) {
  return guarded([&] {
    Engine& e = given(engine, "engine").engine;
    e.generate(to_request(checked_request(request), e.config()), to_output(checked(output, "gc_output")));
  });
}

gc_status gc_profile(gc_engine* engine, int on) {
  return guarded([&] {
    if (on != 0 && on != 1) refuse("on is " + std::to_string(on) + "; allowed are 0 and 1");
    given(engine, "engine").engine.profile(on == 1);
  });
}

gc_status gc_profile_rows(const gc_engine* engine, gc_profile_row* rows, size_t capacity, size_t* count) {
  return guarded([&] {
    const std::vector<ProfileRow> all = given(engine, "engine").engine.profile_rows();
    given(count, "count") = all.size();
    // All names are literals, so data() ends with a NUL; an empty one may have none.
    const auto text = [](std::string_view s) { return s.empty() ? "" : s.data(); };
    for (size_t i = 0; i < std::min(capacity, all.size()); ++i) {
      const ProfileRow& r = all[i];
      (&given(rows, "rows"))[i] = {text(r.stage), text(r.op), text(r.arithmetic), r.height,
                                   r.width,       r.calls,    r.seconds,          r.operations};
    }
  });
}

gc_status gc_unet_forward(const gc_engine* engine, uint64_t count, const float* x, const int32_t* timesteps,
                          const gc_conditions* conditions, float* out) {
  return guarded([&] {
    const Engine& e = given(engine, "engine").engine;
    given(x, "x"), given(timesteps, "timesteps"), given(out, "out");
    e.forward(count, x, timesteps, to_conditions(conditions), out);
  });
}

gc_status gc_sampler_table(const gc_engine* engine, const gc_sampler* sampler, gc_sampler_row* rows, size_t capacity,
                           size_t* count) {
  return guarded([&] {
    const ModelConfig& c = given(engine, "engine").engine.config();
    const SamplerTable table = compile_table(to_sampler(sampler, c).settings, c.diffusion);
    given(count, "count") = table.rows.size();
    for (size_t i = 0; i < std::min(capacity, table.rows.size()); ++i) {
      const SamplerRow& r = table.rows[i];
      (&given(rows, "rows"))[i] = {r.t,    r.stream,  r.a_x,     r.a_out, r.c_x,
                                   r.c_x0, r.c_prev1, r.c_prev2, r.c_raw, r.c_noise};
    }
  });
}

gc_status gc_sampler_resolve(const gc_engine* engine, const gc_sampler* sampler, gc_sampler* resolved) {
  return guarded([&] {
    const ModelConfig& c = given(engine, "engine").engine.config();
    checked(resolved, "gc_sampler");
    const SamplerChoice choice = to_sampler(sampler, c);
    compile_table(choice.settings, c.diffusion);  // for its checks
    *resolved = from_sampler(choice);
  });
}

gc_status gc_noise_fill(uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n) {
  return guarded([&] {
    if (n > size_t{1} << 34) refuse("n is " + std::to_string(n) + "; a stream has 2^34 elements");
    if (n > 0) fill_normal(seed, clip, stream, &given(out, "out"), n);
  });
}

gc_status gc_pack(const float* x, size_t pixels, float threshold, uint8_t* packed) {
  return guarded([&] {
    check_threshold(threshold);
    if (pixels == 0) return;
    const float* values = &given(x, "x");
    if (!std::all_of(values, values + pixels, [](float v) { return std::isfinite(v); }))
      refuse("x holds a value that is not finite");
    pack_clip(values, pixels, threshold, &given(packed, "packed"));
  });
}

gc_status gc_unpack(const uint8_t* packed, size_t pixels, uint8_t* mask) {
  return guarded([&] {
    if (pixels > 0) unpack_clip(&given(packed, "packed"), pixels, &given(mask, "mask"));
  });
}

gc_status gc_config_check(const char* text, size_t length, const char* source) {
  return guarded([&] { parse_config({&given(text, "text"), length}, source == nullptr ? "config.json" : source); });
}

const char* gc_last_error_message(void) { return last_error(); }

const char* gc_version(void) { return GAITCRAFTER_VERSION; }

uint32_t gc_abi_version(void) { return GC_ABI_VERSION; }

gc_status gc_isa(const char** name) {
  return guarded([&] { given(name, "name") = literal(choose_isa()); });
}

gc_status gc_isa_supported(const char* name, int* supported) {
  return guarded([&] { given(supported, "supported") = isa_supported(isa_named(&given(name, "name"))) ? 1 : 0; });
}

gc_status gc_precision_supported(const char* name, int* supported) {
  return guarded([&] {
    const std::string wanted = &given(name, "name");
    const std::optional<Precision> precision = precision_named(wanted);
    if (!precision) {
      throw Error(Status::kInvalidRequest,
                  "precision is \"" + wanted + "\"; allowed are \"fp32\", \"fp32-winograd\", \"bf16\" and \"int8\"");
    }
    given(supported, "supported") = precision_supported(*precision, choose_isa()) ? 1 : 0;
  });
}

gc_status gc_processor_rate(const char* arithmetic, const char* isa, double* operations_per_second) {
  return guarded([&] {
    const std::string wanted = &given(arithmetic, "arithmetic");
    const std::optional<Arithmetic> kind = arithmetic_named(wanted);
    if (!kind) refuse("arithmetic is \"" + wanted.substr(0, 64) + "\"; allowed are \"fp32\", \"bf16\" and \"int8\"");
    given(operations_per_second, "operations_per_second") =
        processor_rate(*kind, isa == nullptr ? choose_isa() : isa_named(isa));
  });
}

gc_status gc_cache_look(const char* model_sha256, gc_cache* cache) {
  return guarded([&] {
    checked(cache, "gc_cache");
    thread_local CacheReport report;
    report = report_cache(model_sha256 == nullptr ? "" : model_sha256);
    cache->folder = report.folder.c_str();
    cache->problem = report.problem.c_str();
    cache->entries = report.entries;
    cache->bytes = report.bytes;
  });
}

}  // extern "C"
