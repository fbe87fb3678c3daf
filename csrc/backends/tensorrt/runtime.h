// What the backend asks of TensorRT, apart from the library: nvinfer.cc answers by libnvinfer, a test by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backends/cuda/cuda_api.h"

namespace gaitcrafter {

// An engine ready to run. Every call that TensorRT may refuse returns false then; TrtRuntime::last_error says why.
class TrtEngine {
 public:
  virtual ~TrtEngine() = default;
  virtual bool set_shape(const char* name, std::span<const int64_t> shape) = 0;
  virtual bool set_address(const char* name, void* device_memory) = 0;
  virtual bool enqueue(CudaStream stream) = 0;
};

class TrtRuntime {
 public:
  virtual ~TrtRuntime() = default;
  virtual std::string version() const = 0;  // "10.14.1"
  // Null if TensorRT does not take it.
  virtual std::unique_ptr<TrtEngine> load(std::span<const std::byte> engine) = 0;
  virtual std::string last_error() const = 0;
};

// Opens libnvinfer: `path`, else the environment variable GAITCRAFTER_TENSORRT, else libnvinfer.so.10 as the loader
// finds it. Only where there is a GPU: without a driver TensorRT crashes later. Throws kMissingExtra if it does not
// open, kCapability if it is no TensorRT of 10.14 to below 11.
std::unique_ptr<TrtRuntime> open_nvinfer(const std::string& path);

// Throws kCapability unless this backend takes TensorRT's version `number` (10.14.1 is 101401) of library `path`.
void check_trt_version(int number, const std::string& path);

}  // namespace gaitcrafter
