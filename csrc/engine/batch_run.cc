#include "engine/batch_run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "sampler/loop.h"

namespace gaitcrafter {
namespace {

constexpr std::chrono::milliseconds kReportEvery{50};

// What keep_going is told, at most as often as ClipRun's callers tell it.
class Reporter {
 public:
  Reporter(const GenerateRequest& request, int rows)
      : request_(request), steps_total_(request.count * static_cast<uint64_t>(rows)) {}

  // Throws kCancelled.
  void tell(uint64_t steps, uint64_t clips, bool always) {
    const auto now = std::chrono::steady_clock::now();
    if (!request_.keep_going || (!always && now - last_ < kReportEvery)) return;
    last_ = now;
    if (request_.keep_going({steps, steps_total_, clips, request_.count})) return;
    throw Error(Status::kCancelled, "cancelled by the progress callback after " + std::to_string(steps) + " of " +
                                        std::to_string(steps_total_) + " steps; no clip of this call was kept");
  }

 private:
  const GenerateRequest& request_;
  uint64_t steps_total_;
  std::chrono::steady_clock::time_point last_{};
};

// The arrays of one batch, padded.
struct Slots {
  Slots(const GenerateRequest& request, std::span<const ClipConditions> conditions, size_t batch, size_t floats)
      : request_(request), all_(conditions), floats_(floats), seeds(batch, request.seed), indices(batch), given(batch) {
    if (request.initial_noise != nullptr) noise.resize(batch * floats);
  }

  BatchView fill(uint64_t first, size_t real) {
    for (size_t k = 0; k < seeds.size(); ++k) {
      const uint64_t i = first + std::min(k, real - 1);
      indices[k] = request_.clip_indices != nullptr ? request_.clip_indices[i] : request_.start + i;
      given[k] = all_[i];
      if (!noise.empty()) std::copy_n(request_.initial_noise + i * floats_, floats_, noise.data() + k * floats_);
    }
    return {static_cast<int>(seeds.size()), seeds.data(), indices.data(), given.data(),
            noise.empty() ? nullptr : noise.data()};
  }

 private:
  const GenerateRequest& request_;
  std::span<const ClipConditions> all_;
  size_t floats_;

 public:
  std::vector<uint64_t> seeds, indices;
  std::vector<ClipConditions> given;
  std::vector<float> noise;
};

}  // namespace

void Network::generate(const GenerateRequest& request, const GenerateOutput& output,
                       std::span<const ClipConditions> conditions, const SamplerTable& table,
                       const Guidance& guidance) {
  const UNetConfig& u = config().unet;
  const ClipShape& clip = config().clip;
  const size_t floats = size_t(u.channels) * size_t(clip.frames) * size_t(clip.height) * size_t(clip.width);
  run_batches(request, output, conditions, table, *start(table, guidance), identity().batch, floats);
}

void run_batches(const GenerateRequest& request, const GenerateOutput& output,
                 std::span<const ClipConditions> conditions, const SamplerTable& table, BatchBackend& backend,
                 int batch, size_t clip_floats) {
  const size_t size = static_cast<size_t>(batch), bytes = packed_bytes(clip_floats);
  const uint64_t rows = static_cast<uint64_t>(table.size());
  Slots slots(request, conditions, size, clip_floats);
  std::vector<uint8_t> packed(size * bytes);
  std::vector<float> x0(output.x0.empty() ? 0 : size * clip_floats);
  Reporter reporter(request, table.size());
  reporter.tell(0, 0, true);
  for (uint64_t first = 0; first < request.count; first += size) {
    const size_t real = static_cast<size_t>(std::min<uint64_t>(size, request.count - first));
    const BatchView view = slots.fill(first, real);
    const size_t bad =
        run_sampler(backend, table, view, request.threshold, packed.data(), [&](int done, int /*total*/) {
          reporter.tell(first * rows + static_cast<uint64_t>(done) * real, first, false);
          return true;
        });
    if (bad > 0) {
      throw Error(Status::kInternal, "clips " + std::to_string(slots.indices.front()) + " to " +
                                         std::to_string(slots.indices[real - 1]) + ": " + std::to_string(bad) +
                                         " values of the network were not finite; the weights or the condition "
                                         "weights are far outside what the model was trained on, or the precision is "
                                         "too low for them");
    }
    std::copy_n(packed.data(), real * bytes, output.packed.data() + first * bytes);
    if (x0.empty()) continue;
    backend.copy_x0(x0.data());
    std::copy_n(x0.data(), real * clip_floats, output.x0.data() + first * clip_floats);
  }
  reporter.tell(request.count * rows, request.count, true);
}

}  // namespace gaitcrafter
