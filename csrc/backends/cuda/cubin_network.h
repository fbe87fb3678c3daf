// Backend "cubin": a model on an NVIDIA GPU by kernels compiled ahead of time (gaitcrafter-rt export kernels).
#pragma once

#include <memory>
#include <string>

#include "backends/cuda/cuda_api.h"
#include "backends/cuda/kernel_pack.h"
#include "engine/network.h"

namespace gaitcrafter {

// `path` is a kernel pack, or a model package whose pack is options.plan. options.device is "cuda" or "cuda:N",
// options.library the path of libcudart. The GPU is first touched by a run. Throws kInvalidRequest, kModelFormat,
// kUnsupportedVersion, kMissingExtra without libcudart, kCapability without a driver.
std::unique_ptr<Network> open_cubin(const std::string& path, const EngineOptions& options);

// The same on a table of CUDA's functions, for tests.
std::unique_ptr<Network> open_cubin(const std::string& path, const EngineOptions& options, const CudaApi& api,
                                    bool graphs);

}  // namespace gaitcrafter
