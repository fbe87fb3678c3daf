// A pack on one GPU: its kernels loaded, its weights there, and launch lists started over memory that the caller binds.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/cuda_handles.h"
#include "backends/cuda/kernel_pack.h"

namespace gaitcrafter {

// Where each space begins on the GPU. Weights are the launcher's own.
using Bindings = std::array<std::byte*, kSpaces>;

class Launcher {
 public:
  // Checks for a GPU first. Loads all kernels and copies the weights. Throws kCapability, kOutOfMemory, kInternal.
  // `careful` waits for every kernel, so that what goes wrong inside one is reported with its name.
  Launcher(const CudaApi& api, std::shared_ptr<const KernelPack> pack, int device, bool careful = false);

  const CudaApi& api() const { return api_; }
  const KernelPack& pack() const { return *pack_; }
  const std::string& chip() const { return chip_; }  // "sm_90", with "ptx" behind it if that is what runs
  void use_device() const;                           // CUDA's current device belongs to a thread

  // Starts every kernel of a list on the stream. Throws kInternal; kInvalidRequest if a grid exceeds CUDA's limit.
  void run(const std::string& list, const Bindings& bindings, int clips, int lanes, CudaStream stream) const;

 private:
  struct Loaded {
    LibraryHandle library;
    CudaKernel kernel = nullptr;
    uint32_t threads = 0, shared_bytes = 0;
  };

  void load_kernels(int image);

  const CudaApi& api_;
  std::shared_ptr<const KernelPack> pack_;
  int device_;
  bool careful_;
  std::string chip_;
  std::vector<Loaded> kernels_;
  DeviceMemory weights_;
};

}  // namespace gaitcrafter
