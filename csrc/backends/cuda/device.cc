#include "backends/cuda/device.h"

#include <charconv>

#include "core/error.h"

namespace gaitcrafter {
namespace {

// Further numbers of cudaDeviceAttr.
constexpr int kProcessors = 16, kBusBits = 37, kL2Bytes = 38;

}  // namespace

int cuda_device_number(const std::string& device, const std::string& backend) {
  if (device == "cuda") return 0;
  int number = -1;
  const std::string prefix = "cuda:";
  if (device.starts_with(prefix)) {
    const char* const end = device.data() + device.size();
    const auto [rest, error] = std::from_chars(device.data() + prefix.size(), end, number);
    if (error == std::errc() && rest == end && number >= 0) return number;
  }
  throw Error(Status::kInvalidRequest, "device is \"" + device.substr(0, 64) + "\"; backend \"" + backend +
                                           "\" takes \"cuda\" or \"cuda:0\", \"cuda:1\", ...");
}

std::string gpu_text(const CudaApi& api, int device) {
  int count = 0;
  check_cuda(api, api.GetDeviceCount(&count), "looking for GPUs");
  if (device >= count) {
    throw Error(Status::kCapability, "device is cuda:" + std::to_string(device) + "; this machine has " +
                                         std::to_string(count) + " NVIDIA GPUs");
  }
  check_cuda(api, api.SetDevice(device), "taking GPU " + std::to_string(device));
  const auto ask = [&](int attribute) {
    int value = 0;
    check_cuda(api, api.DeviceGetAttribute(&value, attribute, device), "asking what the GPU is");
    return value;
  };
  const int major = ask(kCudaAttributeMajor), minor = ask(kCudaAttributeMinor);
  return "sm_" + std::to_string(10 * major + minor) + " " + std::to_string(ask(kProcessors)) + " processors " +
         std::to_string(ask(kL2Bytes)) + " bytes L2 " + std::to_string(ask(kBusBits)) + " bits bus";
}

}  // namespace gaitcrafter
