#include "backends/tensorrt/network.h"

#include <unistd.h>

#include <array>
#include <cstring>

#include "backends/cuda/cuda_handles.h"
#include "backends/cuda/device.h"
#include "backends/graph_backend.h"
#include "backends/tensorrt/engine_cache.h"
#include "core/error.h"
#include "model/sha256.h"

namespace gaitcrafter {
namespace {

constexpr int kDefaultBatch = 8;  // of a graph for any number of clips
// What export/tensorrt's engines.py writes into a key for an engine of its default flags.
constexpr const char *kBuilder = "1", *kFlags = "tf32=0 level=3";
constexpr std::array kWeightNames = {"weights.dataset", "weights.identity", "weights.view", "weights.covariate"};

// One input or the output: a part of the pinned memory and one of the GPU's.
struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  size_t bytes = 0, offset = 0;
};

class TrtSession final : public GraphSession {
 public:
  TrtSession(const CudaApi& api, TrtRuntime& runtime, const Exported& exported, const std::string& graph,
             std::span<const std::byte> engine, int batch)
      : api_(api), runtime_(runtime) {
    describe(exported, batch);
    engine_ = runtime.load(engine);
    if (!engine_) throw Error(Status::kCapability, "TensorRT does not take its engine of " + graph + ": " + why());
    stream_ = cuda_stream(api);
    pinned_ = pinned_memory(api, total_, "a batch of clips");
    device_ = device_memory(api, total_, "a batch of clips");
    for (const Tensor& t : tensors_) {
      const bool shaped = t.name == "out" || engine_->set_shape(t.name.c_str(), t.shape);
      if (!shaped || !engine_->set_address(t.name.c_str(), static_cast<std::byte*>(device_.get()) + t.offset))
        throw Error(Status::kCapability,
                    "the engine of " + graph + " does not take the tensor " + t.name + ": " + why());
    }
  }

  void run(const GraphInputs& in, float* out) override {
    for (const Tensor& t : tensors_)
      if (const void* from = source(in, t.name)) {
        std::memcpy(host(t), from, t.bytes);
        check_cuda(api_, api_.MemcpyAsync(device(t), host(t), t.bytes, kCudaToDevice, stream_.get()),
                   "copying a batch");
      }
    if (!engine_->enqueue(stream_.get())) throw Error(Status::kInternal, "TensorRT does not run: " + why());
    const Tensor& result = tensors_.back();
    check_cuda(api_, api_.MemcpyAsync(host(result), device(result), result.bytes, kCudaToHost, stream_.get()),
               "copying a batch");
    check_cuda(api_, api_.StreamSynchronize(stream_.get()), "running an engine");
    std::memcpy(out, host(result), result.bytes);
  }

 private:
  void describe(const Exported& exported, int batch) {
    const ModelConfig& c = exported.config;
    const std::vector<int64_t> clip = {batch, c.unet.channels, c.clip.frames, c.clip.height, c.clip.width};
    add("x", clip, sizeof(float));
    add("t", {batch}, sizeof(int64_t));
    for (size_t a = 0; a < kAxes; ++a) {
      if (c.conditioning.wiring[a] != Wiring::kNone)
        add(kWeightNames[a], {batch, static_cast<int64_t>(c.labels[a].size()) + 1}, sizeof(float));
    }
    if (c.conditioning.cond_dim > 0) add("cond", {batch, c.conditioning.cond_dim}, sizeof(float));
    add("out", clip, sizeof(float));
  }

  void add(const std::string& name, const std::vector<int64_t>& shape, size_t each) {
    size_t count = 1;
    for (const int64_t n : shape) count *= static_cast<size_t>(n);
    tensors_.push_back({name, shape, count * each, total_});
    total_ += (count * each + 255) / 256 * 256;
  }

  static const void* source(const GraphInputs& in, const std::string& name) {
    if (name == "x") return in.x;
    if (name == "t") return in.t;
    if (name == "cond") return in.cond;
    for (size_t a = 0; a < kAxes; ++a)
      if (name == kWeightNames[a]) return in.weights[a];
    return nullptr;
  }

  std::byte* host(const Tensor& t) const { return static_cast<std::byte*>(pinned_.get()) + t.offset; }
  std::byte* device(const Tensor& t) const { return static_cast<std::byte*>(device_.get()) + t.offset; }
  std::string why() const { return runtime_.last_error(); }

  const CudaApi& api_;
  TrtRuntime& runtime_;
  std::vector<Tensor> tensors_;
  size_t total_ = 0;
  std::unique_ptr<TrtEngine> engine_;
  StreamHandle stream_;
  PinnedMemory pinned_;
  DeviceMemory device_;
};

// One graph of an export with its engine, which is read when the network is opened and loaded by the first run.
struct Part {
  std::string graph;
  CachedEngine engine;
  std::unique_ptr<TrtSession> session;
};

class TrtNetwork final : public Network {
 public:
  TrtNetwork(Exported exported, const EngineOptions& options, const CudaApi& api, const OpenTrt& open)
      : exported_(std::move(exported)),
        api_(api),
        device_(cuda_device_number(options.device, "tensorrt")),
        gpu_(gpu_text(api, device_)),  // before anything of TensorRT is touched
        runtime_(open(options.library)),
        batch_(call_batch(exported_, options.batch, kDefaultBatch)) {
    std::string hashes;
    for (const std::string& graph : {exported_.graph, exported_.exact_graph}) {
      if (graph.empty()) continue;
      parts_.push_back({graph, find_engine(key_of(graph), remedy(options)), nullptr});
      hashes += parts_.back().engine.sha256;
    }
    identity_ = {"tensorrt",
                 options.device,
                 exported_.precision,
                 batch_,
                 sha256_hex(std::as_bytes(std::span(hashes))),
                 "tensorrt " + runtime_->version() + " (C++)"};
  }

  const ModelConfig& config() const override { return exported_.config; }
  const std::string& model_sha256() const override { return exported_.model_sha256; }
  const NetworkIdentity& identity() const override { return identity_; }

  std::unique_ptr<BatchBackend> start(const SamplerTable& table, const Guidance& guidance) override {
    if (::getpid() != owner_) {
      throw Error(
          Status::kInvalidRequest,
          "this engine was opened before the process forked, and CUDA does not survive that; open it in the new "
          "process (a bulk job: --workers 0)");
    }
    check_cuda(api_, api_.SetDevice(device_), "taking GPU " + std::to_string(device_));
    for (Part& part : parts_) {
      if (part.session) continue;
      part.session = std::make_unique<TrtSession>(api_, *runtime_, exported_, part.graph, part.engine.bytes, batch_);
      part.engine.bytes = {};
    }
    TrtSession* const exact = parts_.size() > 1 ? parts_[1].session.get() : nullptr;
    return std::make_unique<GraphBackend>(exported_, batch_, table, guidance, *parts_[0].session, exact);
  }

 private:
  EngineKey key_of(const std::string& graph) const {
    const std::string name = graph.substr(graph.rfind('/') + 1);
    const auto data = exported_.files.find(name + ".data");
    const std::string n = std::to_string(batch_);
    return {{"builder", kBuilder},
            {"library", "tensorrt " + runtime_->version()},
            {"model", exported_.model_sha256},
            {"graph", exported_.files.at(name)},
            {"data", data == exported_.files.end() ? "none" : data->second},
            {"precision", exported_.precision},
            {"gpu", gpu_},
            {"profiles", n + ":" + n + ":" + n},
            {"flags", kFlags}};
  }

  std::string remedy(const EngineOptions& options) const {
    const std::string folder = exported_.graph.substr(0, exported_.graph.rfind('/'));
    return "build it: gaitcrafter-rt export tensorrt " + folder + " --device " + std::to_string(device_) + " --batch " +
           std::to_string(batch_) + (options.batch > 0 ? "" : ", or name the batch that there is");
  }

  const Exported exported_;
  const CudaApi& api_;
  const int device_;
  const std::string gpu_;
  const std::unique_ptr<TrtRuntime> runtime_;
  const int batch_;
  const pid_t owner_ = ::getpid();
  NetworkIdentity identity_;
  std::vector<Part> parts_;  // gone before the runtime
};

}  // namespace

std::unique_ptr<Network> open_tensorrt(const std::string& path, const EngineOptions& options, const CudaApi& api,
                                       const OpenTrt& open) {
  if (!options.isa.empty() || !options.plan.empty())
    throw Error(Status::kInvalidRequest, "isa and plan are not for backend \"tensorrt\"; leave them out");
  cuda_device_number(options.device, "tensorrt");
  Exported exported = read_export(path);
  check_export_precision(exported, options.precision);
  return std::make_unique<TrtNetwork>(std::move(exported), options, api, open);
}

void check_trt_version(int number, const std::string& path) {
  if (number >= 101400 && number < 110000) return;
  const std::string text =
      std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
  throw Error(Status::kCapability, path + " is TensorRT " + text +
                                       "; this build takes 10.14 to below 11: pip install "
                                       "'tensorrt>=10.14,<11'");
}

}  // namespace gaitcrafter
