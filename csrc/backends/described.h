// Backend "none": what a model is, from its folder without the weights; it runs nothing. Callers that run the network
// by themselves (gaitcrafter_rt/backends) take labels, sampler tables and checks from it.
#pragma once

#include "engine/network.h"

namespace gaitcrafter {

// `path` is a model package or an ONNX export. Throws kModelFormat, kUnsupportedVersion.
std::unique_ptr<Network> open_described(const std::string& path, const EngineOptions& options);

}  // namespace gaitcrafter
