// The one place that knows which backends there are, and which of them this build has.
#include <array>
#include <string_view>

#include "backends/cuda/cubin_network.h"
#include "backends/described.h"
#ifdef GAITCRAFTER_ONNXRUNTIME
#include "backends/onnxruntime/network.h"
#endif
#ifdef GAITCRAFTER_TENSORRT
#include "backends/tensorrt/network.h"
#endif
#include "core/error.h"
#include "engine/network.h"

namespace gaitcrafter {
namespace {

using Opener = std::unique_ptr<Network> (*)(const std::string& path, const EngineOptions& options);

struct Entry {
  std::string_view name;
  Opener open;              // null: not in this build
  std::string_view remedy;  // what brings it
};

#ifdef GAITCRAFTER_ONNXRUNTIME
constexpr Opener kOnnxRuntime = &open_onnxruntime;
#else
constexpr Opener kOnnxRuntime = nullptr;
#endif

#ifdef GAITCRAFTER_TENSORRT
constexpr Opener kTensorRt = &open_tensorrt;
#else
constexpr Opener kTensorRt = nullptr;
#endif

constexpr std::array kEntries = {
    Entry{"none", &open_described, ""},
    Entry{"cubin", &open_cubin, ""},
    Entry{"onnxruntime", kOnnxRuntime,
          "run tools/onnxruntime-sdk.sh in the source tree and build again (docs/export.md)"},
    Entry{"tensorrt", kTensorRt, "build again with -DGAITCRAFTER_TENSORRT=ON (docs/export.md)"},
};

}  // namespace

bool is_network_backend(const std::string& backend) { return backend != "native"; }

std::unique_ptr<Network> open_network(const std::string& path, const EngineOptions& options) {
  std::string known = "\"native\"";
  for (const Entry& entry : kEntries) {
    if (entry.name == options.backend) {
      if (entry.open != nullptr) return entry.open(path, options);
      throw Error(Status::kCapability,
                  "backend \"" + options.backend + "\" is not in this build; " + std::string(entry.remedy));
    }
    known += ", \"" + std::string(entry.name) + "\"";
  }
  throw Error(Status::kInvalidRequest, "backend is \"" + options.backend.substr(0, 64) + "\"; allowed are " + known);
}

}  // namespace gaitcrafter
