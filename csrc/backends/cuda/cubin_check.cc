// cubin_check PACK...: what a kernel pack makes on this machine's GPU, beside the native engine on the CPU. One JSON
// object per pack on standard output. Exit status: 0 if all holds, 1 if something differs, 77 without a GPU.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "backends/cuda/kernel_pack.h"
#include "core/error.h"
#include "engine/engine.h"

namespace gaitcrafter {
namespace {

constexpr uint64_t kCompared = 8, kInvariance = 37;  // clips; 37 leave a tail at every batch
constexpr double kMaxDiffering[] = {0.001, 0.01};    // share of pixels: fp32, lower precisions

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Labels of `count` clips: one of every axis, going round.
class Labels {
 public:
  Labels(const ModelConfig& config, uint64_t count) {
    for (int a = 0; a < kAxes; ++a) {
      if (!axis_usable(config, a)) continue;
      const size_t n = config.labels[a].size();
      for (uint64_t i = 0; i <= count; ++i) offsets_[a].push_back(i);
      for (uint64_t i = 0; i < count; ++i) labels_[a].push_back(static_cast<int32_t>(i % n));
      weights_[a].assign(count, 1.0f);
      request.axes[a] = {offsets_[a].data(), labels_[a].data(), weights_[a].data()};
    }
  }
  ConditionRequest request;

 private:
  std::array<std::vector<uint64_t>, kAxes> offsets_;
  std::array<std::vector<int32_t>, kAxes> labels_;
  std::array<std::vector<float>, kAxes> weights_;
};

struct Clips {
  std::vector<uint8_t> packed;
  std::vector<float> x0;
};

Clips generate(Engine& engine, uint64_t count, const SamplerSettings& sampler, bool with_x0) {
  const Labels labels(engine.config(), count);
  GenerateRequest request;
  request.seed = 7;
  request.count = count;
  request.conditions = labels.request;
  request.sampler = sampler;
  Clips clips;
  clips.packed.resize(count * engine.packed_bytes());
  if (with_x0) clips.x0.resize(count * engine.clip_floats());
  engine.generate(request, {clips.packed, clips.x0});
  return clips;
}

double differing(const Clips& a, const Clips& b) {
  size_t bits = 0;
  for (size_t i = 0; i < a.packed.size(); ++i)
    bits += static_cast<size_t>(__builtin_popcount(static_cast<unsigned>(a.packed[i] ^ b.packed[i])));
  return static_cast<double>(bits) / static_cast<double>(8 * a.packed.size());
}

double rms_difference(const Clips& a, const Clips& b) {
  double sum = 0;
  for (size_t i = 0; i < a.x0.size(); ++i) {
    const double d = static_cast<double>(a.x0[i]) - static_cast<double>(b.x0[i]);
    sum += d * d;
  }
  return std::sqrt(sum / static_cast<double>(a.x0.size()));
}

EngineOptions on_gpu(int batch, const std::string& library) {
  EngineOptions options;
  options.backend = "cubin";
  options.device = "cuda";
  options.batch = batch;
  options.library = library;
  return options;
}

// Median seconds of three runs of `count` clips, after one that is not counted.
double timed(Engine& engine, uint64_t count, const SamplerSettings& sampler) {
  generate(engine, count, sampler, false);
  std::vector<double> times;
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    generate(engine, count, sampler, false);
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return times[1];
}

bool check_pack(const std::string& folder, const std::string& library) {
  EngineOptions exactly;
  exactly.precision = "fp32";
  Engine cpu(folder + "/model", exactly);
  const SamplerSettings own = cpu.config().sampler;
  SamplerSettings noisy = own;
  noisy.kind = SamplerKind::kDdpm;
  noisy.steps = 6;
  noisy.thresholding = Thresholding::kDynamic;
  noisy.eta = 0;

  const auto opening = std::chrono::steady_clock::now();
  Engine gpu(folder, on_gpu(64, library));
  generate(gpu, 1, own, false);
  const double opened = seconds_since(opening);
  const std::string precision = gpu.identity().precision;
  std::printf("{\"pack\": \"%s\", \"precision\": \"%s\", \"first_clip_seconds\": %.3f", folder.c_str(),
              precision.c_str(), opened);

  bool fine = true;
  for (const auto& [name, sampler] : {std::pair{"own", own}, std::pair{"ddpm_dynamic", noisy}}) {
    const Clips ours = generate(gpu, kCompared, sampler, true), theirs = generate(cpu, kCompared, sampler, true);
    const double share = differing(ours, theirs);
    fine = fine && share <= kMaxDiffering[precision == "fp32" ? 0 : 1];
    std::printf(", \"%s\": {\"differing_pixels\": %.3g, \"x0_rms_difference\": %.3g}", name, share,
                rms_difference(ours, theirs));
  }

  const Clips all = generate(gpu, kInvariance, own, true);
  std::printf(", \"same_bits\": {");
  for (const int batch : {1, 3, 8, 32}) {
    Engine other(folder, on_gpu(batch, library));
    const Clips again = generate(other, kInvariance, own, true);
    const bool same =
        again.packed == all.packed && std::memcmp(again.x0.data(), all.x0.data(), all.x0.size() * sizeof(float)) == 0;
    fine = fine && same;
    std::printf("%s\"%d\": %s", batch == 1 ? "" : ", ", batch, same ? "true" : "false");
  }
  const Clips again = generate(gpu, kInvariance, own, true);
  const bool same = again.packed == all.packed;
  fine = fine && same;
  std::printf(", \"again\": %s}, \"clips_per_second\": {", same ? "true" : "false");
  for (const int batch : {1, 8, 64, 256}) {
    Engine engine(folder, on_gpu(batch, library));
    const uint64_t count = static_cast<uint64_t>(batch) * (batch == 1 ? 8 : 4);
    std::printf("%s\"%d\": %.1f", batch == 1 ? "" : ", ", batch,
                static_cast<double>(count) / timed(engine, count, own));
    std::fflush(stdout);
  }
  std::printf("}, \"fine\": %s}\n", fine ? "true" : "false");
  std::fflush(stdout);
  return fine;
}

}  // namespace
}  // namespace gaitcrafter

int main(int argc, char** argv) {
  using namespace gaitcrafter;
  std::string library;
  bool fine = argc > 1;
  if (argc < 2) std::fprintf(stderr, "usage: cubin_check [--cudart LIBRARY] PACK...\n");
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--cudart") == 0 && i + 1 < argc) {
      library = argv[++i];
      continue;
    }
    try {
      fine = check_pack(argv[i], library) && fine;
    } catch (const Error& e) {
      std::printf("\n");
      std::fprintf(stderr, "%s: %s\n", argv[i], e.what());
      if (e.status() == Status::kCapability || e.status() == Status::kMissingExtra) return 77;
      fine = false;
    }
  }
  return fine ? 0 : 1;
}
