// Owners of CUDA's handles. Each keeps the table it was made with and gives back what it holds; errors then are
// dropped, because there is nothing left to do about them.
#pragma once

#include <string>
#include <utility>

#include "backends/cuda/cuda_api.h"

namespace gaitcrafter {

template <typename Handle, auto Destroy>
class CudaHandle {
 public:
  CudaHandle() = default;
  CudaHandle(const CudaApi& api, Handle handle) : api_(&api), handle_(handle) {}
  CudaHandle(CudaHandle&& other) noexcept : api_(other.api_), handle_(std::exchange(other.handle_, nullptr)) {}
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudaHandle() {
    if (handle_ != nullptr) (api_->*Destroy)(handle_);
  }

  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  const CudaApi* api_ = nullptr;
  Handle handle_ = nullptr;
};

using DeviceMemory = CudaHandle<void*, &CudaApi::Free>;
using PinnedMemory = CudaHandle<void*, &CudaApi::FreeHost>;
using StreamHandle = CudaHandle<CudaStream, &CudaApi::StreamDestroy>;
using EventHandle = CudaHandle<CudaEvent, &CudaApi::EventDestroy>;
using GraphHandle = CudaHandle<CudaGraph, &CudaApi::GraphDestroy>;
using GraphExecHandle = CudaHandle<CudaGraphExec, &CudaApi::GraphExecDestroy>;
using LibraryHandle = CudaHandle<CudaLibrary, &CudaApi::LibraryUnload>;

// All throw what check_cuda throws; `what` names the purpose, "activations".
inline DeviceMemory device_memory(const CudaApi& api, size_t bytes, const std::string& what) {
  void* pointer = nullptr;
  check_cuda(api, api.Malloc(&pointer, bytes), "taking " + std::to_string(bytes) + " bytes of GPU memory for " + what);
  return {api, pointer};
}

inline PinnedMemory pinned_memory(const CudaApi& api, size_t bytes, const std::string& what) {
  void* pointer = nullptr;
  check_cuda(api, api.MallocHost(&pointer, bytes), "pinning " + std::to_string(bytes) + " bytes for " + what);
  return {api, pointer};
}

inline StreamHandle cuda_stream(const CudaApi& api) {
  CudaStream stream = nullptr;
  check_cuda(api, api.StreamCreateWithFlags(&stream, kCudaStreamNonBlocking), "making a CUDA stream");
  return {api, stream};
}

inline EventHandle cuda_event(const CudaApi& api) {
  CudaEvent event = nullptr;
  check_cuda(api, api.EventCreateWithFlags(&event, kCudaEventNoTiming), "making a CUDA event");
  return {api, event};
}

}  // namespace gaitcrafter
