#include "backends/onnxruntime/network.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "backends/graph_backend.h"
#include "backends/onnxruntime/library.h"
#include "core/error.h"

namespace gaitcrafter {
namespace {

constexpr int kDefaultBatch = 8;  // of a graph for any number of clips

struct Provider {
  std::string_view device, name, remedy;
};
constexpr Provider kProviders[] = {
    {"cpu", "CPUExecutionProvider", "every ONNX Runtime has it"},
    {"cuda", "CUDAExecutionProvider", "it needs an NVIDIA GPU and the package onnxruntime-gpu in place of onnxruntime"},
    {"tensorrt", "TensorrtExecutionProvider",
     "it needs onnxruntime-gpu, and TensorRT 10's libnvinfer.so.10 on the library path"},
};

const Provider& provider_of(const std::string& device) {
  for (const Provider& p : kProviders)
    if (p.device == device) return p;
  throw Error(Status::kInvalidRequest, "device is \"" + device.substr(0, 64) +
                                           "\"; backend \"onnxruntime\" takes \"cpu\", \"cuda\" and \"tensorrt\"");
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

std::string first_line(const char* text) {
  const std::string_view all(text);
  return std::string(all.substr(0, all.find('\n')));
}

// Algorithms by rule and not by timing, and no TF32: bits must not depend on what else the GPU did while it was opened.
void append_cuda(Ort::SessionOptions& settings) {
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> options(
      made, Ort::GetApi().ReleaseCUDAProviderOptions);
  const std::array keys = {"cudnn_conv_algo_search", "use_tf32"};
  const std::array values = {"HEURISTIC", "0"};
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(made, keys.data(), values.data(), keys.size()));
  settings.AppendExecutionProvider_CUDA_V2(*made);
}

void append_tensorrt(Ort::SessionOptions& settings) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorRTProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&made));
  const std::unique_ptr<OrtTensorRTProviderOptionsV2, void (*)(OrtTensorRTProviderOptionsV2*)> options(
      made, Ort::GetApi().ReleaseTensorRTProviderOptions);
  settings.AppendExecutionProvider_TensorRT_V2(*made);
}

class OrtSession final : public GraphSession {
 public:
  OrtSession(const OrtLibrary& library, const std::string& graph, const Provider& provider, const Exported& exported,
             int batch, int threads)
      : batch_(batch), memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    const ModelConfig& c = exported.config;
    shape_ = {batch, c.unet.channels, c.clip.frames, c.clip.height, c.clip.width};
    floats_ = 1;
    for (const int64_t n : shape_) floats_ *= static_cast<size_t>(n);
    for (size_t a = 0; a < kAxes; ++a) columns_[a] = static_cast<int64_t>(c.labels[a].size()) + 1;
    cond_dim_ = c.conditioning.cond_dim;
    try {
      Ort::SessionOptions settings;
      settings.SetIntraOpNumThreads(threads);
      settings.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
      settings.SetDeterministicCompute(true);
      Ort::ThrowOnError(Ort::GetApi().AddFreeDimensionOverrideByName(settings, "batch", batch));
      if (provider.device == "cuda") append_cuda(settings);
      if (provider.device == "tensorrt") append_tensorrt(settings);
      session_ = Ort::Session(library.environment(), graph.c_str(), settings);
    } catch (const Ort::Exception& e) {
      throw Error(Status::kCapability, "device \"" + std::string(provider.device) + "\": ONNX Runtime " +
                                           library.version() + " does not run " + graph + ": " + first_line(e.what()) +
                                           "; " + std::string(provider.remedy));
    }
  }

  void run(const GraphInputs& in, float* out) override {
    names_.clear();
    values_.clear();
    add("x", in.x, shape_);
    const int64_t rows = batch_;
    names_.push_back("t");
    values_.push_back(
        Ort::Value::CreateTensor<int64_t>(memory_, const_cast<int64_t*>(in.t), static_cast<size_t>(rows), &rows, 1));
    for (size_t a = 0; a < kAxes; ++a)
      if (in.weights[a] != nullptr) add(kWeightNames[a], in.weights[a], {rows, columns_[a]});
    if (in.cond != nullptr) add("cond", in.cond, {rows, cond_dim_});
    const char* output = "out";
    Ort::Value result = Ort::Value::CreateTensor<float>(memory_, out, floats_, shape_.data(), shape_.size());
    try {
      session_.Run(Ort::RunOptions{nullptr}, names_.data(), values_.data(), values_.size(), &output, &result, 1);
    } catch (const Ort::Exception& e) {
      throw Error(Status::kInternal, "ONNX Runtime: " + first_line(e.what()));
    }
  }

 private:
  static constexpr std::array kWeightNames = {"weights.dataset", "weights.identity", "weights.view",
                                              "weights.covariate"};

  void add(const char* name, const float* data, const std::vector<int64_t>& shape) {
    size_t count = 1;
    for (const int64_t n : shape) count *= static_cast<size_t>(n);
    names_.push_back(name);
    values_.push_back(
        Ort::Value::CreateTensor<float>(memory_, const_cast<float*>(data), count, shape.data(), shape.size()));
  }

  int batch_;
  Ort::MemoryInfo memory_;
  Ort::Session session_{nullptr};
  std::vector<int64_t> shape_;
  size_t floats_ = 0;
  std::array<int64_t, kAxes> columns_{};
  int64_t cond_dim_ = 0;
  std::vector<const char*> names_;
  std::vector<Ort::Value> values_;
};

class OrtNetwork final : public Network {
 public:
  OrtNetwork(Exported exported, const EngineOptions& options)
      : exported_(std::move(exported)),
        provider_(provider_of(options.device)),
        library_(OrtLibrary::open(options.library)),
        threads_(options.threads) {
    const auto there = library_.providers();
    if (std::find(there.begin(), there.end(), provider_.name) == there.end()) {
      throw Error(Status::kCapability, "device \"" + options.device + "\": ONNX Runtime " + library_.version() +
                                           " has no " + std::string(provider_.name) + " (it has " + joined(there) +
                                           "); " + std::string(provider_.remedy));
    }
    identity_ = {"onnxruntime",       options.device,
                 exported_.precision, call_batch(exported_, options.batch, kDefaultBatch),
                 exported_.sha256,    "onnxruntime " + library_.version() + " (C++)"};
  }

  const ModelConfig& config() const override { return exported_.config; }
  const std::string& model_sha256() const override { return exported_.model_sha256; }
  const NetworkIdentity& identity() const override { return identity_; }

  std::unique_ptr<BatchBackend> start(const SamplerTable& table, const Guidance& guidance) override {
    if (!graph_) graph_ = session(exported_.graph);
    if (!exact_ && !exported_.exact_graph.empty()) exact_ = session(exported_.exact_graph);
    return std::make_unique<GraphBackend>(exported_, identity_.batch, table, guidance, *graph_, exact_.get());
  }

 private:
  std::unique_ptr<OrtSession> session(const std::string& graph) const {
    return std::make_unique<OrtSession>(library_, graph, provider_, exported_, identity_.batch, threads_);
  }

  Exported exported_;
  const Provider& provider_;
  const OrtLibrary& library_;
  int threads_;
  NetworkIdentity identity_;
  std::unique_ptr<OrtSession> graph_, exact_;
};

}  // namespace

std::unique_ptr<Network> open_onnxruntime(const std::string& path, const EngineOptions& options) {
  if (!options.isa.empty() || !options.plan.empty())
    throw Error(Status::kInvalidRequest, "isa and plan are not for backend \"onnxruntime\"; leave them out");
  provider_of(options.device);
  Exported exported = read_export(path);
  check_export_precision(exported, options.precision);
  return std::make_unique<OrtNetwork>(std::move(exported), options);
}

}  // namespace gaitcrafter
