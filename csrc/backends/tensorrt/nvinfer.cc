// libnvinfer, opened at run time: nothing of TensorRT is linked, and all else of it goes through virtual calls.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "backends/tensorrt/network.h"
#include "backends/tensorrt/runtime.h"
#include "core/error.h"

namespace gaitcrafter {
namespace {

static_assert(NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 14, "headers of TensorRT 10.14 to below 11");
static_assert(sizeof(cudaStream_t) == sizeof(CudaStream));
constexpr const char* kVariable = "GAITCRAFTER_TENSORRT";

// Keeps the last error; TensorRT may call it on any thread.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR || message == nullptr) return;
    try {
      const std::lock_guard lock(mutex_);
      error_ = message;
    } catch (...) {  // no memory for the text: TensorRT takes no exceptions
    }
  }
  std::string error() const {
    const std::lock_guard lock(mutex_);
    return error_.empty() ? "TensorRT gave no reason" : error_;
  }

 private:
  mutable std::mutex mutex_;
  std::string error_;
};

class Engine final : public TrtEngine {
 public:
  Engine(std::unique_ptr<nvinfer1::ICudaEngine> engine, std::unique_ptr<nvinfer1::IExecutionContext> context)
      : engine_(std::move(engine)), context_(std::move(context)) {}

  bool set_shape(const char* name, std::span<const int64_t> shape) override {
    nvinfer1::Dims dims{};
    if (shape.size() > static_cast<size_t>(nvinfer1::Dims::MAX_DIMS)) return false;
    dims.nbDims = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return context_->setInputShape(name, dims);
  }
  bool set_address(const char* name, void* device_memory) override {
    return context_->setTensorAddress(name, device_memory);
  }
  bool enqueue(CudaStream stream) override { return context_->enqueueV3(reinterpret_cast<cudaStream_t>(stream)); }

 private:
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;  // gone before its engine
};

class Runtime final : public TrtRuntime {
 public:
  explicit Runtime(const std::string& path) {
    // Never closed: TensorRT keeps threads and handlers of its own.
    void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* why = ::dlerror();
      throw Error(Status::kMissingExtra, "TensorRT does not open (" + std::string(why == nullptr ? "" : why) +
                                             "); pip install 'tensorrt>=10.14,<11', and name its libnvinfer.so.10 in " +
                                             kVariable + " or as the option library");
    }
    using Version = int32_t (*)();
    using Create = void* (*)(void*, int32_t);
    const auto version = reinterpret_cast<Version>(::dlsym(library, "getInferLibVersion"));
    const auto create = reinterpret_cast<Create>(::dlsym(library, "createInferRuntime_INTERNAL"));
    if (version == nullptr || create == nullptr)
      throw Error(Status::kCapability, path + " is no TensorRT: it has no createInferRuntime_INTERNAL");
    const int number = version();
    check_trt_version(number, path);
    version_ =
        std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(&logger_, NV_TENSORRT_VERSION)));
    if (!runtime_) throw Error(Status::kCapability, "TensorRT " + version_ + " does not start: " + logger_.error());
  }

  std::string version() const override { return version_; }
  std::string last_error() const override { return logger_.error(); }

  std::unique_ptr<TrtEngine> load(std::span<const std::byte> bytes) override {
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!engine) return nullptr;
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    if (!context) return nullptr;
    return std::make_unique<Engine>(std::move(engine), std::move(context));
  }

 private:
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // gone before its logger
  std::string version_;
};

}  // namespace

std::unique_ptr<Network> open_tensorrt(const std::string& path, const EngineOptions& options) {
  return open_tensorrt(path, options, cuda_runtime(""), &open_nvinfer);
}

std::unique_ptr<TrtRuntime> open_nvinfer(const std::string& path) {
  const char* named = std::getenv(kVariable);
  if (!path.empty()) return std::make_unique<Runtime>(path);
  return std::make_unique<Runtime>(named != nullptr && *named != '\0' ? named : "libnvinfer.so.10");
}

}  // namespace gaitcrafter
