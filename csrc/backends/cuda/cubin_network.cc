#include "backends/cuda/cubin_network.h"

#include <dlfcn.h>

#include <cstdlib>

#include "backends/cuda/cubin_engine.h"
#include "backends/cuda/device.h"
#include "cache/packed_cache.h"
#include "core/error.h"

namespace gaitcrafter {
namespace {

constexpr int kLargestBatch = 64;  // clips at a time unless the caller says; memory may allow fewer

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }

class CubinNetwork final : public Network {
 public:
  CubinNetwork(const std::string& path, const EngineOptions& options, const CudaApi& api, bool graphs)
      : api_(api), pack_(open_kernel_pack(options.plan.empty() ? path : options.plan)) {
    options_.device = cuda_device_number(options.device, "cubin");
    options_.batch = options.batch > 0 ? options.batch : kLargestBatch;
    options_.graphs = graphs;
    const char* const careful = std::getenv("GAITCRAFTER_CUDA_CAREFUL");
    options_.careful = careful != nullptr && std::string(careful) == "1";
    if (!options.isa.empty()) refuse("isa is for backend \"native\"");
    if (options.precision != "auto" && options.precision != pack_->precision) {
      refuse("precision is \"" + options.precision + "\", but " + pack_->folder + " holds kernels in " +
             pack_->precision + "; use \"auto\", or export the kernels in that precision");
    }
    WeightsSource source(ModelFolder::open(is_kernel_pack(path) ? pack_->model_folder() : path));
    model_sha256_ = source.folder().sha256();
    host_ = UNet::create(source, choose_isa(), Precision::kFp32);
    check_pack(*pack_, *host_, model_sha256_);
    identity_ = {"cubin", options.device, pack_->precision, options_.batch, pack_->sha256, pack_->compiler};
  }

  const ModelConfig& config() const override { return host_->config(); }
  const std::string& model_sha256() const override { return model_sha256_; }
  const NetworkIdentity& identity() const override { return identity_; }

  std::unique_ptr<BatchBackend> start(const SamplerTable& table, const Guidance& guidance) override {
    return engine().backend(table, guidance, options_.batch);
  }

  void generate(const GenerateRequest& request, const GenerateOutput& output,
                std::span<const ClipConditions> conditions, const SamplerTable& table,
                const Guidance& guidance) override {
    engine().generate(request, output, conditions, table, guidance);
  }

 private:
  CubinEngine& engine() {
    if (!engine_) engine_ = std::make_unique<CubinEngine>(api_, pack_, host_, options_);
    return *engine_;
  }

  const CudaApi& api_;
  std::shared_ptr<const KernelPack> pack_;
  std::shared_ptr<const UNet> host_;  // works out what conditions and timesteps come to
  CubinOptions options_;
  std::string model_sha256_;
  NetworkIdentity identity_;
  std::unique_ptr<CubinEngine> engine_;
};

}  // namespace

std::unique_ptr<Network> open_cubin(const std::string& path, const EngineOptions& options, const CudaApi& api,
                                    bool graphs) {
  return std::make_unique<CubinNetwork>(path, options, api, graphs);
}

std::unique_ptr<Network> open_cubin(const std::string& path, const EngineOptions& options) {
  cuda_device_number(options.device, "cubin");
  if (options.plan.empty() && !is_kernel_pack(path)) {
    throw Error(Status::kModelFormat, path +
                                          ": no kernels.json there; backend \"cubin\" takes the folder that "
                                          "`gaitcrafter-rt export kernels` wrote, as the model or as its plan");
  }
  const CudaApi& api = cuda_runtime(options.library);
  // Looked for, not started: a process may open a model and fork before it uses the GPU.
  if (dlopen("libcuda.so.1", RTLD_LAZY) == nullptr) {
    throw Error(
        Status::kCapability,
        "there is no NVIDIA driver here (libcuda.so.1); backend \"cubin\" needs a GPU, else use device \"cpu\"");
  }
  return open_cubin(path, options, api, true);
}

}  // namespace gaitcrafter
