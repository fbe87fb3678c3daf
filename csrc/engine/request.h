// What a generate call asks for.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>

#include "denoiser/conditions.h"
#include "sampler/table.h"

namespace gaitcrafter {

struct Progress {
  uint64_t steps_done = 0, steps_total = 0, clips_done = 0, clips_total = 0;
};

// kThroughput: every clip is made by one thread. kLatency: one clip after another, each by all threads. kAuto: a clip
// per thread, and threads that have none help the others. Bits do not depend on it.
enum class Mode : int { kAuto = 0, kThroughput = 1, kLatency = 2 };

struct GenerateRequest {
  uint64_t seed = 0, start = 0, count = 1;
  const uint64_t* clip_indices = nullptr;  // count values, or nullptr for start, start + 1, ...
  ConditionRequest conditions;
  SamplerSettings sampler;
  std::array<bool, kAxes> null_axes = {true, true, true, true};
  float threshold = 0.5f;
  Mode mode = Mode::kAuto;
  const float* initial_noise = nullptr;             // count x clip_floats, in place of stream 0
  std::function<bool(const Progress&)> keep_going;  // on the calling thread; false cancels
};

struct GenerateOutput {
  std::span<uint8_t> packed;  // count x packed_bytes
  std::span<float> x0;        // count x clip_floats, or empty
};

}  // namespace gaitcrafter
