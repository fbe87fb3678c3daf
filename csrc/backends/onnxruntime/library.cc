#include "backends/onnxruntime/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>

#include "core/error.h"

namespace gaitcrafter {
namespace {

constexpr uint32_t kOldest = 20;  // the API of 1.20; later ones only add functions, which we do not call
constexpr const char* kVariable = "GAITCRAFTER_ONNXRUNTIME";

std::string chosen_path(const std::string& path) {
  if (!path.empty()) return path;
  const char* named = std::getenv(kVariable);
  return named != nullptr && *named != '\0' ? named : "libonnxruntime.so.1";
}

}  // namespace

const OrtLibrary& OrtLibrary::open(const std::string& path) {
  static std::mutex mutex;
  static std::unique_ptr<const OrtLibrary> library;
  const std::lock_guard lock(mutex);
  const std::string wanted = chosen_path(path);
  if (!library) library.reset(new OrtLibrary(wanted));
  if (library->path_ != wanted) {
    throw Error(Status::kInvalidRequest, "library is \"" + wanted + "\", but this process runs \"" + library->path_ +
                                             "\"; a process has one ONNX Runtime");
  }
  return *library;
}

OrtLibrary::OrtLibrary(std::string path) : path_(std::move(path)) {
  void* handle = ::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = ::dlerror();
    throw Error(Status::kMissingExtra, "ONNX Runtime does not open (" + std::string(why == nullptr ? "" : why) +
                                           "); pip install onnxruntime, and name its capi/libonnxruntime.so.* in " +
                                           kVariable + " or as the option library");
  }
  using GetBase = const OrtApiBase*(ORT_API_CALL*)();
  const auto get = reinterpret_cast<GetBase>(::dlsym(handle, "OrtGetApiBase"));
  const OrtApiBase* base = get == nullptr ? nullptr : get();
  if (base == nullptr) throw Error(Status::kCapability, path_ + " is no ONNX Runtime: it has no OrtGetApiBase");
  version_ = base->GetVersionString();
  const OrtApi* api = base->GetApi(kOldest);
  if (api == nullptr)
    throw Error(Status::kCapability, path_ + " is ONNX Runtime " + version_ + "; 1.20 or newer is needed");
  Ort::InitApi(api);
}

std::vector<std::string> OrtLibrary::providers() const { return Ort::GetAvailableProviders(); }

Ort::Env& OrtLibrary::environment() const {
  static Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "gaitcrafter");
  return environment;
}

}  // namespace gaitcrafter
