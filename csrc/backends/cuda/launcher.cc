#include "backends/cuda/launcher.h"

#include <algorithm>

#include "core/error.h"

namespace gaitcrafter {
namespace {

constexpr uint32_t kSharedByDefault = 48u << 10;  // more has to be asked for
constexpr uint64_t kMaxGridX = (uint64_t{1} << 31) - 1;
constexpr size_t kMaxPointers = 64;

}  // namespace

Launcher::Launcher(const CudaApi& api, std::shared_ptr<const KernelPack> pack, int device, bool careful)
    : api_(api), pack_(std::move(pack)), device_(device), careful_(careful) {
  int count = 0;
  check_cuda(api_, api_.GetDeviceCount(&count), "looking for a GPU");
  if (device < 0 || device >= count) {
    throw Error(Status::kCapability,
                "GPU " + std::to_string(device) + " is not there; this machine has " + std::to_string(count));
  }
  use_device();
  int major = 0, minor = 0;
  check_cuda(api_, api_.DeviceGetAttribute(&major, kCudaAttributeMajor, device), "asking the GPU for its generation");
  check_cuda(api_, api_.DeviceGetAttribute(&minor, kCudaAttributeMinor, device), "asking the GPU for its generation");
  const int image = pack_->image_for(major, minor);
  chip_ = "sm_" + std::to_string(10 * major + minor) + (pack_->images[static_cast<size_t>(image)].ptx ? " ptx" : "");
  load_kernels(image);
  const auto blob = pack_->weights->bytes();
  weights_ = device_memory(api_, blob.size(), "weights");
  const StreamHandle stream = cuda_stream(api_);
  check_cuda(api_, api_.MemcpyAsync(weights_.get(), blob.data(), blob.size(), kCudaToDevice, stream.get()),
             "copying the weights to the GPU");
  check_cuda(api_, api_.StreamSynchronize(stream.get()), "copying the weights to the GPU");
  pack_->weights->release_pages();
}

void Launcher::use_device() const { check_cuda(api_, api_.SetDevice(device_), "choosing the GPU"); }

void Launcher::load_kernels(int image) {
  int limit = 0;
  check_cuda(api_, api_.DeviceGetAttribute(&limit, kCudaAttributeSharedOptin, device_),
             "asking the GPU for its shared memory");
  const PackImage& from = pack_->images[static_cast<size_t>(image)];
  for (const PackKernel& kernel : pack_->kernels) {
    const PackCode& code = kernel.code[static_cast<size_t>(image)];
    if (code.shared_bytes > static_cast<uint32_t>(std::max(limit, 0))) {
      throw Error(Status::kCapability, "kernel " + kernel.name + " needs " + std::to_string(code.shared_bytes) +
                                           " bytes of shared memory, this GPU has " + std::to_string(limit));
    }
    CudaLibrary library = nullptr;
    check_cuda(api_,
               api_.LibraryLoadData(&library, from.file->bytes().data() + code.offset, nullptr, nullptr, 0, nullptr,
                                    nullptr, 0),
               "loading kernel " + kernel.name);
    Loaded loaded;
    loaded.library = LibraryHandle(api_, library);
    check_cuda(api_, api_.LibraryGetKernel(&loaded.kernel, library, code.entry.c_str()),
               "finding kernel " + code.entry);
    loaded.threads = 32 * code.warps;
    loaded.shared_bytes = code.shared_bytes;
    if (code.shared_bytes > kSharedByDefault) {
      check_cuda(api_,
                 api_.FuncSetAttribute(loaded.kernel, kCudaFunctionSharedBytes, static_cast<int>(code.shared_bytes)),
                 "reserving shared memory for kernel " + kernel.name);
    }
    kernels_.push_back(std::move(loaded));
  }
}

void Launcher::run(const std::string& list, const Bindings& bindings, int clips, int lanes, CudaStream stream) const {
  std::array<void*, kMaxPointers> values{};
  std::array<void*, kMaxPointers> arguments{};
  const uint64_t all_lanes = static_cast<uint64_t>(clips) * static_cast<uint64_t>(lanes);
  for (const PackCall& call : pack_->list(list)) {
    const Loaded& loaded = kernels_[static_cast<size_t>(call.kernel)];
    const uint64_t programs = call.grid[0] * (call.per_lane ? all_lanes : static_cast<uint64_t>(clips));
    if (programs > kMaxGridX) {
      throw Error(Status::kInvalidRequest, "a batch of " + std::to_string(clips) + " clips needs " +
                                               std::to_string(programs) + " programs in one launch, CUDA allows " +
                                               std::to_string(kMaxGridX) + "; use a smaller batch");
    }
    size_t count = 0;
    for (const PackArgument& a : call.arguments) {
      const PackBuffer& buffer = pack_->buffers[static_cast<size_t>(a.buffer)];
      std::byte* const base = buffer.space == Space::kWeights ? static_cast<std::byte*>(weights_.get())
                                                              : bindings[static_cast<size_t>(buffer.space)];
      if (base == nullptr)
        throw Error(Status::kInternal, "kernel " + pack_->kernels[static_cast<size_t>(call.kernel)].name +
                                           " reads memory that nothing is bound to");
      const uint64_t offset = buffer.space == Space::kArena ? buffer.offset * all_lanes : buffer.offset;
      values[count++] = base + offset + a.inner;
    }
    // Triton's kernels take two more pointers, to scratch memory and to a profiler's; none of ours uses either.
    values[count++] = nullptr;
    values[count++] = nullptr;
    for (size_t i = 0; i < count; ++i) arguments[i] = &values[i];
    CudaLaunchConfig config;
    config.grid = {static_cast<unsigned>(programs), call.grid[1], call.grid[2]};
    config.block = {loaded.threads, 1, 1};
    config.shared_bytes = loaded.shared_bytes;
    config.stream = stream;
    const int error = api_.LaunchKernelExC(&config, loaded.kernel, arguments.data());
    const auto what = [&] { return "kernel " + pack_->kernels[static_cast<size_t>(call.kernel)].name; };
    if (error != kCudaSuccess) check_cuda(api_, error, "starting " + what());
    if (careful_) check_cuda(api_, api_.StreamSynchronize(stream), "running " + what() + " of " + list);
  }
}

}  // namespace gaitcrafter
