// Backend "tensorrt": an exported graph by an engine that `gaitcrafter-rt export tensorrt` built on this machine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backends/cuda/cuda_api.h"
#include "backends/tensorrt/runtime.h"
#include "engine/network.h"

namespace gaitcrafter {

using OpenTrt = std::function<std::unique_ptr<TrtRuntime>(const std::string& library)>;

// `path` is an export folder, options.device "cuda" or "cuda:N", options.library libnvinfer. Opening asks the GPU what
// it is, so a process that forks must open afterwards. Throws kModelFormat, kInvalidRequest, kMissingExtra, and
// kCapability or kDataFormat where there is no GPU, no TensorRT or no engine for both.
std::unique_ptr<Network> open_tensorrt(const std::string& path, const EngineOptions& options);

// With another CUDA and another TensorRT, for tests.
std::unique_ptr<Network> open_tensorrt(const std::string& path, const EngineOptions& options, const CudaApi& api,
                                       const OpenTrt& open);

}  // namespace gaitcrafter
