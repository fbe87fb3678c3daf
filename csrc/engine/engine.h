// One model on the CPU: conditions in, packed clips out, spread over a pool of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "denoiser/denoiser.h"
#include "engine/pool.h"
#include "engine/profile.h"
#include "engine/request.h"
#include "model/package.h"

namespace gaitcrafter {

inline constexpr int kMaxThreads = 256;
inline constexpr uint64_t kMaxClips = 1 << 20;

struct EngineOptions {
  std::string device = "cpu", precision = "auto";
  std::string isa;  // empty: choose_isa()
  int threads = 0;  // 0: available_processors()
};

class Engine {
 public:
  // Throws kModelFormat, kUnsupportedVersion, kCapability, kInvalidRequest, kOutOfMemory.
  Engine(const std::string& path, const EngineOptions& options);
  // In a process that was forked after the engine ran the pool is left behind: its threads are not there to be joined.
  ~Engine();

  const std::string& model_sha256() const { return model_sha256_; }
  const ModelConfig& config() const { return unet_->config(); }
  WeightsFrom weights_from() const;  // kCache if all are
  const UNet& unet() const { return *unet_; }
  int threads() const { return threads_; }
  size_t clip_floats() const { return clip_floats_; }
  size_t packed_bytes() const;  // of one clip

  // Checks everything, then allocates, then runs. One call at a time; another thread's call waits.
  // Throws kInvalidRequest, kCancelled, kOutOfMemory, kInternal.
  void generate(const GenerateRequest& request, const GenerateOutput& output);

  // From now on times every part of generate calls, from zero, or no longer. Waits for a call that runs.
  void profile(bool on);
  // What was timed; empty unless profiling is on.
  std::vector<ProfileRow> profile_rows() const;

  // One network call per clip, on the calling thread.
  void forward(uint64_t count, const float* x, const int32_t* timesteps, const ConditionRequest& conditions,
               float* out) const;

 private:
  void refuse_own_callback() const;
  void check(const GenerateRequest& request, const GenerateOutput& output) const;
  Pool& pool();

  std::string model_sha256_;
  std::shared_ptr<const UNet> unet_, exact_;  // exact: in fp32, for an eps-model in a lower precision; else null
  std::unique_ptr<Pool> pool_;                // started by the first call; threads do not survive a fork
  int threads_ = 1;
  size_t clip_floats_ = 0;
  std::atomic<long> owner_ = 0;  // process that started the pool, 0 before
  mutable std::mutex running_;
  std::unique_ptr<RunTimes> times_;        // while profiling; under running_
  std::atomic<std::thread::id> runner_{};  // whose generate call runs, so that a callback cannot wait for itself
};

}  // namespace gaitcrafter
