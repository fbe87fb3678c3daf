#include "backends/cuda/cuda_api.h"

#include <dlfcn.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace gaitcrafter {
namespace {

template <typename F>
void find(void* library, const char* name, F*& function, std::string& missing) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr && missing.empty()) missing = name;
  function = reinterpret_cast<F*>(symbol);
}

CudaApi read_table(void* library, const std::string& name) {
  CudaApi api;
  std::string missing;
#define GAITCRAFTER_FIND(call) find(library, "cuda" #call, api.call, missing)
  GAITCRAFTER_FIND(GetDeviceCount);
  GAITCRAFTER_FIND(SetDevice);
  GAITCRAFTER_FIND(DeviceGetAttribute);
  GAITCRAFTER_FIND(MemGetInfo);
  GAITCRAFTER_FIND(Malloc);
  GAITCRAFTER_FIND(Free);
  GAITCRAFTER_FIND(MallocHost);
  GAITCRAFTER_FIND(FreeHost);
  GAITCRAFTER_FIND(MemcpyAsync);
  GAITCRAFTER_FIND(MemsetAsync);
  GAITCRAFTER_FIND(StreamCreateWithFlags);
  GAITCRAFTER_FIND(StreamSynchronize);
  GAITCRAFTER_FIND(StreamDestroy);
  GAITCRAFTER_FIND(StreamBeginCapture);
  GAITCRAFTER_FIND(StreamEndCapture);
  GAITCRAFTER_FIND(EventCreateWithFlags);
  GAITCRAFTER_FIND(EventRecord);
  GAITCRAFTER_FIND(EventQuery);
  GAITCRAFTER_FIND(EventDestroy);
  GAITCRAFTER_FIND(GraphInstantiateWithFlags);
  GAITCRAFTER_FIND(GraphLaunch);
  GAITCRAFTER_FIND(GraphDestroy);
  GAITCRAFTER_FIND(GraphExecDestroy);
  GAITCRAFTER_FIND(LibraryLoadData);
  GAITCRAFTER_FIND(LibraryGetKernel);
  GAITCRAFTER_FIND(LibraryUnload);
  GAITCRAFTER_FIND(FuncSetAttribute);
  GAITCRAFTER_FIND(LaunchKernelExC);
  GAITCRAFTER_FIND(GetLastError);
  GAITCRAFTER_FIND(GetErrorString);
#undef GAITCRAFTER_FIND
  if (!missing.empty()) {
    throw Error(Status::kCapability,
                name + " has no " + missing + "; the cubin backend needs the CUDA runtime 12.8 or newer");
  }
  return api;
}

}  // namespace

const CudaApi& cuda_runtime(const std::string& path) {
  static std::mutex mutex;
  static std::unique_ptr<const CudaApi> found;
  const std::lock_guard lock(mutex);
  if (found != nullptr) return *found;
  const std::vector<std::string> names =
      path.empty() ? std::vector<std::string>{"libcudart.so.13", "libcudart.so.12", "libcudart.so"}
                   : std::vector<std::string>{path};
  std::string why;
  for (const std::string& name : names) {
    // Never closed: CUDA keeps threads and handlers of its own.
    if (void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      found = std::make_unique<const CudaApi>(read_table(library, name));
      return *found;
    }
    if (const char* const text = dlerror(); why.empty() && text != nullptr) why = text;
  }
  throw Error(Status::kMissingExtra, "the CUDA runtime library is not there (" + why +
                                         "); install it, for example with pip install nvidia-cuda-runtime");
}

void check_cuda(const CudaApi& api, int error, const std::string& what) {
  if (error == kCudaSuccess) return;
  api.GetLastError();
  const char* const text = api.GetErrorString(error);
  const std::string message =
      what + " failed: " + (text == nullptr ? "unknown error" : text) + " (CUDA error " + std::to_string(error) + ")";
  switch (error) {
    case kCudaOutOfMemory:
      throw Error(Status::kOutOfMemory, message + "; use a smaller batch");
    case kCudaInsufficientDriver:
    case kCudaNoDevice:
    case kCudaInvalidDevice:
      throw Error(Status::kCapability, message + "; this needs an NVIDIA GPU and its driver, else use device \"cpu\"");
    case kCudaNoKernelImage:
    case kCudaUnsupportedPtx:
      throw Error(Status::kCapability,
                  message + "; export the kernels for this GPU: gaitcrafter-rt export kernels, or update its driver");
    default:
      throw Error(Status::kInternal, message);
  }
}

}  // namespace gaitcrafter
