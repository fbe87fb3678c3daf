// One model: conditions in, packed clips out; on the CPU, spread over a pool of threads, or on a backend of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "denoiser/denoiser.h"
#include "engine/network.h"
#include "engine/options.h"
#include "engine/pool.h"
#include "engine/profile.h"
#include "engine/request.h"
#include "model/package.h"

namespace gaitcrafter {

inline constexpr uint64_t kMaxClips = 1 << 20;

class Engine {
 public:
  // Throws kModelFormat, kUnsupportedVersion, kCapability, kInvalidRequest, kOutOfMemory.
  Engine(const std::string& path, const EngineOptions& options);
  // In a process that was forked after the engine ran the pool is left behind: its threads are not there to be joined.
  ~Engine();

  const std::string& model_sha256() const { return model_sha256_; }
  const ModelConfig& config() const { return network_ ? network_->config() : unet_->config(); }
  WeightsFrom weights_from() const;        // kCache if all are; kMemory for other backends
  double flops() const { return flops_; }  // of one network call for one clip
  // Who runs the network. Its `runtime` is the instruction set of backend "native", whose batch is 1.
  const NetworkIdentity& identity() const { return network_ ? network_->identity() : native_; }
  std::string_view isa() const { return network_ ? "" : isa_name(unet_->isa()); }
  int threads() const { return threads_; }
  size_t clip_floats() const { return clip_floats_; }
  size_t packed_bytes() const;  // of one clip

  // Checks everything, then allocates, then runs. One call at a time; another thread's call waits.
  // Throws kInvalidRequest, kCancelled, kOutOfMemory, kInternal, and what a backend throws where it cannot run.
  void generate(const GenerateRequest& request, const GenerateOutput& output);

  // From now on times every part of generate calls, from zero, or no longer. Waits for a call that runs. Throws
  // kCapability on other backends than "native".
  void profile(bool on);
  // What was timed; empty unless profiling is on.
  std::vector<ProfileRow> profile_rows() const;

  // One network call per clip, on the calling thread. Backend "native" alone.
  void forward(uint64_t count, const float* x, const int32_t* timesteps, const ConditionRequest& conditions,
               float* out) const;

 private:
  void refuse_own_callback() const;
  void check(const GenerateRequest& request, const GenerateOutput& output) const;
  void native_only(const char* what) const;
  void open_native(const std::string& path, const EngineOptions& options);
  void generate_native(const GenerateRequest& request, const GenerateOutput& output, const SamplerTable& table,
                       const Guidance& guidance, std::span<const ClipConditions> conditions);
  Pool& pool();

  std::string model_sha256_;
  std::unique_ptr<Network> network_;  // null: backend "native"
  NetworkIdentity native_;
  double flops_ = 0;
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
