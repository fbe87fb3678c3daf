// The native noise and sampler behind plain C functions, so that Python tests can drive them with a denoiser of their
// own (tests/native_sampler.py builds and loads this).
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"
#include "noise/normal.h"
#include "sampler/clip_sampler.h"
#include "sampler/loop.h"
#include "sampler/pack.h"

using namespace gaitcrafter;

namespace {

struct Settings {
  int32_t kind, steps, spacing, thresholding, rederive_eps, prediction, schedule, timesteps;
  double eta, dynamic_percentile, guidance;
};

using Denoise = void (*)(const float* x, int32_t t, float* out);

SamplerTable compile(const Settings& s) {
  SamplerSettings settings;
  settings.kind = static_cast<SamplerKind>(s.kind);
  settings.steps = s.steps;
  settings.eta = s.eta;
  settings.spacing = static_cast<Spacing>(s.spacing);
  settings.thresholding = static_cast<Thresholding>(s.thresholding);
  settings.dynamic_percentile = s.dynamic_percentile;
  settings.rederive_eps = s.rederive_eps != 0;
  settings.guidance = s.guidance;
  return compile_table(settings,
                       {static_cast<Prediction>(s.prediction), static_cast<Schedule>(s.schedule), s.timesteps});
}

// One clip whose denoiser is a callback; keeps x_0.
class CallbackBackend : public Backend {
 public:
  CallbackBackend(Denoise denoise, float* x_0, size_t n) : denoise_(denoise), x_0_(x_0), n_(n), out_(n) {}

  void prepare(const SamplerTable& table, const BatchView& batch) override {
    table_ = &table;
    memory_.resize(ClipSampler::workspace_bytes(table, n_) + 64);
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    clip_ = std::make_unique<ClipSampler>(table, n_, reinterpret_cast<std::byte*>((address + 63) / 64 * 64));
    clip_->start(batch.seeds[0], batch.clip_indices[0]);
  }
  void eval(int row) override { denoise_(clip_->x(), table_->rows[static_cast<size_t>(row)].t, out_.data()); }
  void step(int row) override { non_finite_ += clip_->step(row, out_.data()); }
  size_t finish(float threshold, uint8_t* packed) override {
    std::memcpy(x_0_, clip_->x(), n_ * sizeof(float));
    return non_finite_ + pack_clip(clip_->x(), n_, threshold, packed);
  }

 private:
  Denoise denoise_;
  float* x_0_;
  size_t n_;
  std::vector<float> out_;
  std::vector<std::byte> memory_;
  std::unique_ptr<ClipSampler> clip_;
  const SamplerTable* table_ = nullptr;
  size_t non_finite_ = 0;
};

template <class F>
int64_t guarded(char* message, F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    std::snprintf(message, 512, "%s", error.what());
    return -static_cast<int64_t>(error.status());
  }
}

}  // namespace

#define SHIM extern "C" __attribute__((visibility("default")))

// Ten doubles per row: t, stream, a_x, a_out, c_x, c_x0, c_prev1, c_prev2, c_raw, c_noise. Returns the count of rows.
SHIM int64_t shim_rows(const Settings* settings, double* rows, char* message) {
  return guarded(message, [&] {
    const SamplerTable table = compile(*settings);
    for (const ExactRow& r : table.exact) {
      for (const double value :
           {double(r.t), double(r.stream), r.a_x, r.a_out, r.c_x, r.c_x0, r.c_prev1, r.c_prev2, r.c_raw, r.c_noise}) {
        *rows++ = value;
      }
    }
    return static_cast<int64_t>(table.exact.size());
  });
}

// Runs the native loop for one clip; returns the count of non-finite values.
SHIM int64_t shim_sample(const Settings* settings, Denoise denoise, uint64_t seed, uint64_t clip, size_t n,
                         float threshold, float* x_0, uint8_t* packed, char* message) {
  return guarded(message, [&] {
    const SamplerTable table = compile(*settings);
    CallbackBackend backend(denoise, x_0, n);
    return static_cast<int64_t>(run_sampler(backend, table, BatchView{1, &seed, &clip, nullptr}, threshold, packed));
  });
}

SHIM int32_t shim_isa_supported(int32_t isa) { return isa_supported(static_cast<Isa>(isa)); }

SHIM void shim_normals(int32_t isa, uint64_t seed, uint64_t clip, uint32_t stream, float* out, size_t n) {
  fill_normal(static_cast<Isa>(isa), seed, clip, stream, out, n);
}

SHIM float shim_dynamic_limit(float* values, size_t n, double percentile) {
  return dynamic_limit(values, n, percentile);
}

SHIM int64_t shim_pack(const float* x, size_t pixels, float threshold, uint8_t* packed) {
  return static_cast<int64_t>(pack_clip(x, pixels, threshold, packed));
}
