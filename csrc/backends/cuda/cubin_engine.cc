#include "backends/cuda/cubin_engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "core/error.h"
#include "sampler/pack.h"

namespace gaitcrafter {
namespace {

constexpr std::chrono::milliseconds kReportEvery{50};
constexpr std::chrono::microseconds kPollEvery{20};

int next_power_of_2(uint64_t n) {
  int power = 1;
  while (static_cast<uint64_t>(power) < n) power *= 2;
  return power;
}

}  // namespace

struct CubinEngine::Run {
  Run(const SamplerTable& t, const Guidance& g, const UNet& host, const KernelPack& pack)
      : table(t),
        guidance(g),
        lanes(uses_cond(g) && uses_null(g) ? 2 : 1),
        time(host.prepare_time(t.timesteps())),
        exact(exact_rows(pack, t)),
        state(static_cast<size_t>(lanes) * host.condition_floats()),
        vector(static_cast<size_t>(host.config().conditioning.cond_dim)) {}

  bool dynamic() const { return table.thresholding == Thresholding::kDynamic; }
  uint64_t clip(uint64_t i) const {
    return request->clip_indices != nullptr ? request->clip_indices[i] : request->start + i;
  }

  // Throws kCancelled.
  void report(uint64_t clips_done, bool always) {
    const auto now = std::chrono::steady_clock::now();
    if (request == nullptr || !request->keep_going || (!always && now - reported < kReportEvery)) return;
    reported = now;
    const uint64_t rows = static_cast<uint64_t>(table.size());
    if (request->keep_going({clips_done * rows, request->count * rows, clips_done, request->count})) return;
    throw Error(Status::kCancelled, "cancelled by the progress callback after " + std::to_string(clips_done) + " of " +
                                        std::to_string(request->count) + " clips; no clip of this call was kept");
  }

  const SamplerTable& table;
  Guidance guidance;
  int lanes;
  std::shared_ptr<const TimeTables> time;
  std::vector<bool> exact;
  mutable std::vector<float> state, vector;  // of one clip, while it is prepared
  const GenerateRequest* request = nullptr;
  const GenerateOutput* output = nullptr;
  std::chrono::steady_clock::time_point reported{};
};

void check_pack(const KernelPack& pack, const UNet& host, const std::string& model_sha256) {
  const ModelConfig& c = host.config();
  const uint64_t floats =
      uint64_t(c.unet.channels) * uint64_t(c.clip.frames) * uint64_t(c.clip.height) * uint64_t(c.clip.width);
  if (pack.model_sha256 == model_sha256 && pack.clip_floats == floats &&
      pack.film_floats + pack.map_floats == host.condition_floats())
    return;
  throw Error(Status::kModelFormat, pack.folder + ": the kernels were exported for another model; export them again");
}

CubinEngine::CubinEngine(const CudaApi& api, std::shared_ptr<const KernelPack> pack, std::shared_ptr<const UNet> host,
                         const CubinOptions& options)
    : launcher_(api, std::move(pack), options.device, options.careful), host_(std::move(host)), options_(options) {
  stream_ = cuda_stream(api);
}

CubinEngine::~CubinEngine() {
  // Memory may not go while the GPU uses it.
  if (stream_) launcher_.api().StreamSynchronize(stream_.get());
}

// As many clips as were asked for, as are wanted at most, and as there is memory for.
int CubinEngine::largest_batch(uint64_t count, int lanes, int rows) const {
  int clips = std::min(options_.batch, next_power_of_2(count));
  size_t free_bytes = 0, total = 0;
  check_cuda(launcher_.api(), launcher_.api().MemGetInfo(&free_bytes, &total), "asking the GPU for its free memory");
  uint64_t room = free_bytes;
  if (memory_) room += CubinMemory::device_bytes(pack(), memory_->clips(), memory_->lanes(), memory_->rows());
  while (clips > 1 && CubinMemory::device_bytes(pack(), clips, lanes, rows) > room - room / 16) clips = (clips + 1) / 2;
  return clips;
}

void CubinEngine::plan_memory(int clips, int lanes, int rows) {
  if (memory_ && memory_->lanes() == lanes && memory_->clips() >= clips && memory_->rows() >= rows) return;
  if (memory_ && memory_->lanes() == lanes) {
    clips = std::max(clips, memory_->clips());
    rows = std::max(rows, memory_->rows());
  }
  graphs_.clear();
  memory_.reset();  // first, so that both need not fit
  memory_ = std::make_unique<CubinMemory>(launcher_, clips, lanes, next_power_of_2(static_cast<uint64_t>(rows)));
}

void CubinEngine::start(Run& run, int clips) {
  check_cuda(launcher_.api(), launcher_.api().StreamSynchronize(stream_.get()), "waiting for the GPU");
  plan_memory(clips, run.lanes, run.table.size());
}

// The stream is idle here, so that the pinned copy is free.
void CubinEngine::upload_table(const Run& run, float threshold) {
  const TableLayout& layout = memory_->table();
  write_table(pack(), run.table, *run.time, threshold, layout, memory_->host_table());
  check_cuda(launcher_.api(),
             launcher_.api().MemcpyAsync(memory_->device_table(), memory_->host_table(), layout.bytes, kCudaToDevice,
                                         stream_.get()),
             "copying the sampler table to the GPU");
}

// Slots beyond the batch repeat its last clip.
void CubinEngine::fill(const Run& run, CubinMemory::Slot& slot, const BatchView& batch, int clips) {
  const BatchLayout& at = memory_->batch();
  const size_t film = pack().film_floats, map = pack().map_floats, floats = pack().clip_floats;
  auto* const seeds = reinterpret_cast<uint64_t*>(slot.input + at.seeds);
  auto* const indices = reinterpret_cast<uint64_t*>(slot.input + at.indices);
  auto* const conditions = reinterpret_cast<float*>(slot.input + at.conditions);
  auto* const maps = reinterpret_cast<float*>(slot.input + at.maps);
  for (int k = 0; k < clips; ++k) {
    const int i = std::min(k, batch.clips - 1);
    seeds[k] = batch.seeds[i];
    indices[k] = batch.clip_indices[i];
    if (k == i) prepare_lanes(*host_, run.guidance, batch.conditions[i], run.state.data(), run.vector.data());
    for (int lane = 0; lane < run.lanes; ++lane) {
      const float* const state = run.state.data() + static_cast<size_t>(lane) * (map + film);
      const size_t row = static_cast<size_t>(k) * static_cast<size_t>(run.lanes) + static_cast<size_t>(lane);
      std::copy_n(state, map, maps + row * map);
      std::copy_n(state + map, film, conditions + row * film);
    }
    if (batch.initial_noise != nullptr) {
      std::copy_n(batch.initial_noise + static_cast<size_t>(i) * floats, floats,
                  slot.x + static_cast<size_t>(k) * floats);
    }
  }
}

// Inputs to the GPU and x_T.
void CubinEngine::enqueue_start(const Run& run, CubinMemory::Slot& slot, bool noise_given, int clips) {
  const CudaApi& api = launcher_.api();
  check_cuda(
      api,
      api.MemcpyAsync(memory_->device_input(), slot.input, memory_->batch().input_bytes, kCudaToDevice, stream_.get()),
      "copying conditions to the GPU");
  if (!noise_given) {
    launcher_.run("noise", memory_->bindings(0), clips, run.lanes, stream_.get());
    return;
  }
  const size_t bytes = space_unit_bytes(pack(), Space::kX) * static_cast<size_t>(clips);
  check_cuda(api, api.MemcpyAsync(memory_->device(Space::kX), slot.x, bytes, kCudaToDevice, stream_.get()),
             "copying the initial noise to the GPU");
}

// Counters of values that are not finite.
void CubinEngine::enqueue_zero() {
  const size_t bytes = space_unit_bytes(pack(), Space::kBad) * static_cast<size_t>(memory_->clips());
  check_cuda(launcher_.api(), launcher_.api().MemsetAsync(memory_->device(Space::kBad), 0, bytes, stream_.get()),
             "zeroing counters");
}

void CubinEngine::enqueue_eval(const Run& run, int row, int clips) {
  const std::string network = run.exact[static_cast<size_t>(row)] ? "exact_" : "main_";
  launcher_.run(network + std::to_string(run.lanes), memory_->bindings(row), clips, run.lanes, stream_.get());
}

void CubinEngine::enqueue_step(const Run& run, int row, int clips) {
  const std::string lanes = std::to_string(run.lanes);
  const Bindings bindings = memory_->bindings(row);
  if (run.dynamic()) launcher_.run("limit_" + lanes, bindings, clips, run.lanes, stream_.get());
  launcher_.run("step_" + lanes, bindings, clips, run.lanes, stream_.get());
}

void CubinEngine::enqueue_pack(int clips) {
  launcher_.run("pack", memory_->bindings(0), clips, memory_->lanes(), stream_.get());
}

void CubinEngine::enqueue_rows(const Run& run, int clips) {
  enqueue_zero();
  for (int row = 0; row < run.table.size(); ++row) {
    enqueue_eval(run, row, clips);
    enqueue_step(run, row, clips);
  }
  enqueue_pack(clips);
}

const GraphExecHandle& CubinEngine::graph(const Run& run, int clips) {
  GraphExecHandle& found = graphs_[{clips, run.table.size(), run.dynamic(), run.exact}];
  if (found) return found;
  const CudaApi& api = launcher_.api();
  check_cuda(api, api.StreamBeginCapture(stream_.get(), kCudaCaptureThreadLocal), "beginning a CUDA graph");
  CudaGraph captured = nullptr;
  try {
    enqueue_rows(run, clips);
  } catch (...) {
    if (api.StreamEndCapture(stream_.get(), &captured) == kCudaSuccess && captured != nullptr)
      api.GraphDestroy(captured);
    throw;
  }
  check_cuda(api, api.StreamEndCapture(stream_.get(), &captured), "ending a CUDA graph");
  const GraphHandle whole(api, captured);
  CudaGraphExec exec = nullptr;
  check_cuda(api, api.GraphInstantiateWithFlags(&exec, captured, 0), "instantiating a CUDA graph");
  return found = GraphExecHandle(api, exec);
}

void CubinEngine::enqueue_table(const Run& run, int clips) {
  if (!options_.graphs || options_.careful) {
    enqueue_rows(run, clips);
    return;
  }
  check_cuda(launcher_.api(), launcher_.api().GraphLaunch(graph(run, clips).get(), stream_.get()),
             "starting a CUDA graph");
}

void CubinEngine::enqueue_results(CubinMemory::Slot& slot, bool with_x, int clips) {
  const CudaApi& api = launcher_.api();
  check_cuda(
      api,
      api.MemcpyAsync(slot.output, memory_->device_output(), memory_->batch().output_bytes, kCudaToHost, stream_.get()),
      "copying clips from the GPU");
  if (with_x) {
    const size_t bytes = space_unit_bytes(pack(), Space::kX) * static_cast<size_t>(clips);
    check_cuda(api, api.MemcpyAsync(slot.x, memory_->device(Space::kX), bytes, kCudaToHost, stream_.get()),
               "copying x_0 from the GPU");
  }
  check_cuda(api, api.EventRecord(slot.done.get(), stream_.get()), "recording a CUDA event");
}

void CubinEngine::wait(Run& run, CubinMemory::Slot& slot, uint64_t clips_done) {
  const CudaApi& api = launcher_.api();
  for (;;) {
    const int state = api.EventQuery(slot.done.get());
    if (state == kCudaSuccess) return;
    if (state != kCudaNotReady) check_cuda(api, state, "making clips on the GPU");
    run.report(clips_done, false);
    std::this_thread::sleep_for(kPollEvery);
  }
}

size_t CubinEngine::count_bad(const CubinMemory::Slot& slot, int real) const {
  const auto* const bad = reinterpret_cast<const int32_t*>(slot.output + memory_->batch().bad);
  size_t all = 0;
  for (int k = 0; k < real; ++k) all += static_cast<size_t>(bad[k]);
  return all;
}

void CubinEngine::deliver(const Run& run, CubinMemory::Slot& slot, uint64_t first, int real) {
  const size_t bytes = packed_bytes(pack().clip_floats), floats = pack().clip_floats, n = static_cast<size_t>(real);
  if (const size_t bad = count_bad(slot, real); bad > 0) {
    throw Error(Status::kInternal, "clips " + std::to_string(run.clip(first)) + " to " +
                                       std::to_string(run.clip(first + n - 1)) + ": " + std::to_string(bad) +
                                       " values of the network were not finite; the weights or the condition "
                                       "weights are far outside what the model was trained on, or the precision is "
                                       "too low for them");
  }
  std::memcpy(run.output->packed.data() + first * bytes, slot.output + memory_->batch().packed, n * bytes);
  if (!run.output->x0.empty()) std::copy_n(slot.x, n * floats, run.output->x0.data() + first * floats);
}

void CubinEngine::generate(const GenerateRequest& request, const GenerateOutput& output,
                           std::span<const ClipConditions> conditions, const SamplerTable& table,
                           const Guidance& guidance) {
  Run run(table, guidance, *host_, pack());
  run.request = &request;
  run.output = &output;
  run.report(0, true);
  launcher_.use_device();
  const int batch = largest_batch(request.count, run.lanes, table.size());
  start(run, batch);
  const bool noise_given = request.initial_noise != nullptr, with_x = !output.x0.empty();
  if (noise_given || with_x) memory_->want_x();
  upload_table(run, request.threshold);

  struct Pending {
    uint64_t first = 0;
    int real = 0;  // 0: none
  };
  std::array<Pending, 2> pending;
  const auto finish = [&](int slot) {
    Pending& p = pending[static_cast<size_t>(slot)];
    if (p.real == 0) return;
    wait(run, memory_->slot(slot), p.first);
    deliver(run, memory_->slot(slot), p.first, p.real);
    p.real = 0;
  };
  const std::vector<uint64_t> seeds(static_cast<size_t>(batch), request.seed);
  std::vector<uint64_t> indices(static_cast<size_t>(batch));
  try {
    int slot = 0;
    for (uint64_t first = 0; first < request.count; slot = 1 - slot) {
      const int real = static_cast<int>(std::min<uint64_t>(request.count - first, static_cast<uint64_t>(batch)));
      const int clips = std::min(batch, next_power_of_2(static_cast<uint64_t>(real)));
      finish(slot);
      for (int k = 0; k < real; ++k) indices[static_cast<size_t>(k)] = run.clip(first + static_cast<uint64_t>(k));
      const BatchView view{real, seeds.data(), indices.data(), conditions.data() + first,
                           noise_given ? request.initial_noise + first * pack().clip_floats : nullptr};
      fill(run, memory_->slot(slot), view, clips);
      enqueue_start(run, memory_->slot(slot), noise_given, clips);
      enqueue_table(run, clips);
      enqueue_results(memory_->slot(slot), with_x, clips);
      pending[static_cast<size_t>(slot)] = {first, real};
      first += static_cast<uint64_t>(real);
    }
    finish(slot);
    finish(1 - slot);
  } catch (...) {
    launcher_.api().StreamSynchronize(stream_.get());  // what is under way uses memory that the next call fills
    throw;
  }
  run.report(request.count, true);
}

class CubinEngine::RowByRow final : public BatchBackend {
 public:
  RowByRow(CubinEngine& engine, const SamplerTable& table, const Guidance& guidance, int clips)
      : engine_(engine), run_(table, guidance, *engine.host_, engine.pack()), clips_(clips) {
    engine_.launcher_.use_device();
    engine_.start(run_, clips);
    engine_.memory_->want_x();
  }
  ~RowByRow() override { engine_.launcher_.api().StreamSynchronize(engine_.stream_.get()); }

  void prepare(const SamplerTable& table, const BatchView& batch) override {
    if (&table != &run_.table || batch.clips < 1 || batch.clips > clips_)
      throw Error(Status::kInternal, "a backend runs batches of one table");
    real_ = batch.clips;
    engine_.upload_table(run_, 0.5f);
    engine_.fill(run_, slot(), batch, clips_);
    engine_.enqueue_start(run_, slot(), batch.initial_noise != nullptr, clips_);
    engine_.enqueue_zero();
  }
  void eval(int row) override { engine_.enqueue_eval(run_, row, clips_); }
  void step(int row) override { engine_.enqueue_step(run_, row, clips_); }
  size_t finish(float threshold, uint8_t* packed) override {
    const CudaApi& api = engine_.launcher_.api();
    check_cuda(api, api.StreamSynchronize(engine_.stream_.get()), "making clips on the GPU");
    engine_.upload_table(run_, threshold);
    engine_.enqueue_pack(clips_);
    engine_.enqueue_results(slot(), true, clips_);
    engine_.wait(run_, slot(), 0);
    const size_t bytes = packed_bytes(engine_.pack().clip_floats) * static_cast<size_t>(real_);
    std::memcpy(packed, slot().output + engine_.memory_->batch().packed, bytes);
    return engine_.count_bad(slot(), real_);
  }
  void copy_x0(float* out) override {
    std::copy_n(slot().x, engine_.pack().clip_floats * static_cast<size_t>(real_), out);
  }

 private:
  CubinMemory::Slot& slot() { return engine_.memory_->slot(0); }

  CubinEngine& engine_;
  Run run_;
  int clips_, real_ = 0;
};

std::unique_ptr<BatchBackend> CubinEngine::backend(const SamplerTable& table, const Guidance& guidance, int clips) {
  return std::make_unique<RowByRow>(*this, table, guidance, clips);
}

}  // namespace gaitcrafter
