// Backend "onnxruntime": an exported graph on ONNX Runtime's CPU, CUDA or TensorRT provider.
#pragma once

#include "engine/network.h"

namespace gaitcrafter {

// `path` is an export folder; options.device is the provider: "cpu", "cuda" or "tensorrt", that one or an error.
// Throws kModelFormat, kInvalidRequest, kCapability, kMissingExtra. Sessions are made by the first run.
std::unique_ptr<Network> open_onnxruntime(const std::string& path, const EngineOptions& options);

}  // namespace gaitcrafter
