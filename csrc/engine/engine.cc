#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "cache/packed_cache.h"
#include "core/error.h"
#include "engine/clip_run.h"
#include "sampler/pack.h"

namespace gaitcrafter {

namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }

Isa isa_from(const std::string& name) {
  if (name.empty()) return choose_isa();
  for (const Isa isa : kIsas) {
    if (isa_name(isa) != name) continue;
    if (isa_supported(isa)) return isa;
    throw Error(Status::kCapability, "isa \"" + name + "\" is not supported by this processor; the default here is \"" +
                                         std::string(isa_name(choose_isa())) + "\"");
  }
  refuse("isa is \"" + name + "\"; allowed are " + std::string(kIsaChoices));
}

void check_options(const EngineOptions& o) {
  if (o.batch < 0 || o.batch > kMaxBatch) {
    refuse("batch is " + std::to_string(o.batch) + "; allowed are 1 to " + std::to_string(kMaxBatch) +
           ", or 0 for the backend's own");
  }
  if (o.threads < 0 || o.threads > kMaxThreads) {
    refuse("threads is " + std::to_string(o.threads) + "; allowed are 1 to " + std::to_string(kMaxThreads) +
           ", or 0 for one per processor");
  }
  if (o.backend != "native") return;  // the backend judges the rest
  if (o.batch > 0 || !o.library.empty() || !o.plan.empty())
    refuse("batch, library and plan are for other backends; backend is \"native\"");
  if (o.device != "cpu") {
    throw Error(Status::kCapability,
                "device \"" + o.device + "\" is not in this build of the native engine; use \"cpu\"");
  }
  if (o.precision != "auto" && !precision_named(o.precision)) {
    refuse("precision is \"" + o.precision +
           "\"; allowed are \"auto\", \"fp32\", \"fp32-winograd\", \"bf16\" and \"int8\"");
  }
}

// "auto" is the fastest that this processor, this instruction set and the model's widths allow.
Precision precision_from(const std::string& name, Isa isa, const UNetConfig& unet) {
  if (name != "auto") return *precision_named(name);
  const Precision best = best_precision(isa);
  return widths_suit(unet, best) ? best : Precision::kFp32;
}

std::string mebibytes(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

class Runner {
 public:
  explicit Runner(std::atomic<std::thread::id>& slot) : slot_(slot) { slot_ = std::this_thread::get_id(); }
  ~Runner() { slot_ = std::thread::id(); }
  Runner(const Runner&) = delete;

 private:
  std::atomic<std::thread::id>& slot_;
};

}  // namespace

Engine::Engine(const std::string& path, const EngineOptions& options) {
  check_options(options);
  if (is_network_backend(options.backend)) {
    network_ = open_network(path, options);
    model_sha256_ = network_->model_sha256();
    flops_ = network_flops(config());
  } else {
    open_native(path, options);
  }
  const ModelConfig& c = config();
  clip_floats_ = size_t(c.unet.channels) * size_t(c.clip.frames) * size_t(c.clip.height) * size_t(c.clip.width);
  threads_ = options.threads > 0 ? options.threads : std::min(available_processors(), kMaxThreads);
}

void Engine::open_native(const std::string& path, const EngineOptions& options) {
  const Isa isa = isa_from(options.isa);
  WeightsSource source(ModelFolder::open(path));
  const ModelConfig& c = source.folder().config();
  model_sha256_ = source.folder().sha256();
  const Precision precision = precision_from(options.precision, isa, c.unet);
  unet_ = UNet::create(source, isa, precision);
  if (c.diffusion.prediction == Prediction::kEps && (precision == Precision::kBf16 || precision == Precision::kInt8))
    exact_ = UNet::create(source, isa, Precision::kFp32);
  flops_ = unet_->flops();
  native_ = {"native", "cpu", std::string(precision_name(precision)), 1, model_sha256_, std::string(isa_name(isa))};
}

WeightsFrom Engine::weights_from() const {
  if (network_) return WeightsFrom::kMemory;
  return exact_ == nullptr ? unet_->weights_from() : std::min(unet_->weights_from(), exact_->weights_from());
}

Engine::~Engine() {
  if (const long owner = owner_; owner != 0 && owner != ::getpid()) {
    static_cast<void>(pool_.release());
    static_cast<void>(network_.release());
  }
}

// Started late, so that a process may open a model once and fork workers that share its weights.
Pool& Engine::pool() {
  if (!pool_) {
    pool_ = std::make_unique<Pool>(threads_);
    owner_ = ::getpid();
  }
  return *pool_;
}

size_t Engine::packed_bytes() const { return gaitcrafter::packed_bytes(clip_floats_); }

void Engine::check(const GenerateRequest& request, const GenerateOutput& output) const {
  if (const long owner = owner_; owner != 0 && owner != ::getpid()) {
    refuse("this engine ran before the process forked and its threads stayed behind; open it in the new process");
  }
  if (request.count < 1 || request.count > kMaxClips) {
    refuse("count is " + std::to_string(request.count) + "; a request takes 1 to " + std::to_string(kMaxClips) +
           " clips");
  }
  if (request.clip_indices == nullptr && request.start > UINT64_MAX - (request.count - 1)) {
    refuse("start " + std::to_string(request.start) + " plus " + std::to_string(request.count) +
           " clips exceeds the largest clip index");
  }
  if (!(request.threshold > 0.0f && request.threshold < 1.0f)) {
    refuse("threshold is " + std::to_string(request.threshold) + "; it must be above 0 and below 1");
  }
  const uint64_t packed = request.count * packed_bytes(), floats = request.count * clip_floats_;
  if (output.packed.data() == nullptr || output.packed.size() != packed) {
    refuse("the packed buffer has " + std::to_string(output.packed.size()) + " bytes; " +
           std::to_string(request.count) + " clips need exactly " + std::to_string(packed));
  }
  if (!output.x0.empty() && (output.x0.data() == nullptr || output.x0.size() != floats)) {
    refuse("the x0 buffer has " + std::to_string(output.x0.size()) + " floats; " + std::to_string(request.count) +
           " clips need exactly " + std::to_string(floats));
  }
  if (request.initial_noise != nullptr) {
    const float* z = request.initial_noise;
    if (!std::all_of(z, z + floats, [](float v) { return std::isfinite(v); })) {
      refuse("initial_noise holds a value that is not finite");
    }
  }
}

void Engine::generate(const GenerateRequest& request, const GenerateOutput& output) {
  check(request, output);
  const SamplerTable table = compile_table(request.sampler, config().diffusion);
  const Guidance guidance{request.sampler.guidance, request.null_axes};
  check_guidance(config(), guidance);
  const ConditionBatch conditions(config(), request.count, request.conditions);
  for (const ClipConditions& clip : conditions.clips()) check_split(guidance, clip);
  refuse_own_callback();
  const std::lock_guard one_at_a_time(running_);
  const Runner runner(runner_);
  if (!network_) {
    generate_native(request, output, table, guidance, conditions.clips());
    return;
  }
  owner_ = ::getpid();
  network_->generate(request, output, conditions.clips(), table, guidance);
}

void Engine::generate_native(const GenerateRequest& request, const GenerateOutput& output, const SamplerTable& table,
                             const Guidance& guidance, std::span<const ClipConditions> conditions) {
  const Denoiser denoiser(unet_, guidance, exact_);
  std::shared_ptr<const TimeTables> time;
  {
    const Stopwatch watch(times_ ? &times_->tables : nullptr);
    time = unet_->prepare_time(table.timesteps());
  }

  ClipRun run(request, output, conditions, denoiser, table, *time, threads_, times_.get());
  Pool& threads = pool();
  const auto report = [&] {
    if (!request.keep_going) return;
    const Progress now = run.progress();
    bool go = false;
    try {
      go = request.keep_going(now);
    } catch (...) {
      run.stop();
      throw;
    }
    if (!go) {
      run.stop();
      throw Error(Status::kCancelled, "cancelled by the progress callback after " + std::to_string(now.steps_done) +
                                          " of " + std::to_string(now.steps_total) +
                                          " steps; no clip of this call was kept");
    }
  };
  report();
  threads.run(
      run.workers(), [&](int worker) { run.work(worker); }, report);
  report();
}

void Engine::refuse_own_callback() const {
  if (runner_.load() == std::this_thread::get_id())
    refuse("the engine is called from its own progress callback; it runs one call at a time");
}

void Engine::native_only(const char* what) const {
  if (!network_) return;
  throw Error(Status::kCapability, std::string(what) + " is for backend \"native\"; this engine was opened on \"" +
                                       network_->identity().backend + "\"");
}

void Engine::profile(bool on) {
  native_only("profiling");
  refuse_own_callback();
  const std::lock_guard one_at_a_time(running_);
  times_ = on ? std::make_unique<RunTimes>(*unet_, exact_.get()) : nullptr;
}

std::vector<ProfileRow> Engine::profile_rows() const {
  native_only("profiling");
  refuse_own_callback();
  const std::lock_guard one_at_a_time(running_);
  return times_ ? gaitcrafter::profile_rows(*times_, *unet_, exact_.get()) : std::vector<ProfileRow>();
}

void Engine::forward(uint64_t count, const float* x, const int32_t* timesteps, const ConditionRequest& request,
                     float* out) const {
  native_only("a single network call");
  if (count < 1 || count > kMaxClips) {
    refuse("count is " + std::to_string(count) + "; a call takes 1 to " + std::to_string(kMaxClips) + " clips");
  }
  const int limit = config().diffusion.timesteps;
  for (uint64_t i = 0; i < count; ++i) {
    if (timesteps[i] < 0 || timesteps[i] >= limit) {
      refuse("timestep " + std::to_string(timesteps[i]) + " is outside 0.." + std::to_string(limit - 1));
    }
  }
  const ConditionBatch conditions(config(), count, request);
  const Denoiser denoiser(unet_, Guidance{});
  struct Free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };
  const size_t scratch = (denoiser.scratch_bytes() + 63) / 64 * 64,
               bytes = scratch + (denoiser.own_bytes() + 63) / 64 * 64;
  const std::unique_ptr<std::byte, Free> workspace(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
  if (!workspace)
    throw Error(Status::kOutOfMemory, "one network call needs " + mebibytes(bytes) + ", which is not free");
  Team alone(workspace.get());
  const DenoiserMemory memory{workspace.get() + scratch, nullptr};
  std::vector<float> state(denoiser.state_floats());
  for (uint64_t i = 0; i < count; ++i) {
    const auto time = unet_->prepare_time({timesteps + i, 1});
    denoiser.prepare(conditions.clips()[i], state.data(), memory.own);
    denoiser.eval(x + i * clip_floats_, *time, 0, state.data(), out + i * clip_floats_, memory, alone);
  }
}

}  // namespace gaitcrafter
