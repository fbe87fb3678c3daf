#include "testing/fake_cuda.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace gaitcrafter::testing {
namespace {

constexpr int kInvalidValue = 1, kInvalidHandle = 400;
constexpr size_t kDefaultShared = 48u << 10;
FakeCuda* current = nullptr;

}  // namespace

// The functions of the table. Each counts itself, fails if it is to, and else does what CUDA does, at once.
struct FakeCalls {
  static FakeCuda& fake() { return *current; }

  template <typename Set>
  static void* handle(Set& live) {
    FakeCuda& f = fake();
    void* const made = f.new_handle();
    if constexpr (requires { live.insert(made); }) {
      live.insert(made);
    } else {
      live[made];
    }
    return made;
  }

  template <typename Set>
  static int drop(const char* name, Set& live, void* handle) {
    FakeCuda& f = fake();
    if (const int e = f.begin(name)) return e;
    if (live.erase(handle) == 1) return kCudaSuccess;
    f.expect(false, std::string(name) + " of a handle that is not alive");
    return kInvalidHandle;
  }

  static int take(const char* name, void** pointer, size_t bytes, std::map<const std::byte*, size_t>& memory) {
    FakeCuda& f = fake();
    if (const int e = f.begin(name)) return e;
    f.expect(bytes > 0, std::string(name) + " of no bytes");
    // CUDA aligns to 256 bytes.
    auto storage = std::make_unique<std::byte[]>(bytes + 256);
    void* place = storage.get();
    size_t room = bytes + 256;
    auto* const at = static_cast<std::byte*>(std::align(256, bytes, place, room));
    std::memset(at, 0xCD, bytes);  // nothing may count on zeros
    memory[at] = bytes;
    f.storage_[at] = std::move(storage);
    *pointer = at;
    return kCudaSuccess;
  }

  static int give(const char* name, void* pointer, std::map<const std::byte*, size_t>& memory) {
    FakeCuda& f = fake();
    const int e = drop(name, memory, pointer, 0);
    if (e == kCudaSuccess) f.storage_.erase(pointer);
    return e;
  }
  static int drop(const char* name, std::map<const std::byte*, size_t>& memory, void* pointer, int) {
    FakeCuda& f = fake();
    if (const int e = f.begin(name)) return e;
    if (memory.erase(static_cast<const std::byte*>(pointer)) == 1) return kCudaSuccess;
    f.expect(false, std::string(name) + " of memory that is not alive");
    return kInvalidValue;
  }

  static int GetDeviceCount(int* count) {
    const int e = fake().begin("GetDeviceCount");
    if (e == kCudaSuccess) *count = fake().devices;
    return e;
  }
  static int SetDevice(int device) {
    if (const int e = fake().begin("SetDevice")) return e;
    return device < fake().devices ? kCudaSuccess : kCudaInvalidDevice;
  }
  static int DeviceGetAttribute(int* value, int attribute, int) {
    FakeCuda& f = fake();
    if (const int e = f.begin("DeviceGetAttribute")) return e;
    *value = attribute == kCudaAttributeMajor ? f.major : attribute == kCudaAttributeMinor ? f.minor : f.shared_optin;
    return kCudaSuccess;
  }
  static int MemGetInfo(size_t* free_bytes, size_t* total) {
    FakeCuda& f = fake();
    if (const int e = f.begin("MemGetInfo")) return e;
    size_t used = 0;
    for (const auto& [pointer, bytes] : f.device_) used += bytes;
    *total = f.memory;
    *free_bytes = used > f.memory ? 0 : f.memory - used;
    return kCudaSuccess;
  }
  static int Malloc(void** pointer, size_t bytes) { return take("Malloc", pointer, bytes, fake().device_); }
  static int Free(void* pointer) { return give("Free", pointer, fake().device_); }
  static int MallocHost(void** pointer, size_t bytes) { return take("MallocHost", pointer, bytes, fake().pinned_); }
  static int FreeHost(void* pointer) { return give("FreeHost", pointer, fake().pinned_); }
  static int MemcpyAsync(void* to, const void* from, size_t bytes, int kind, CudaStream stream) {
    FakeCuda& f = fake();
    if (const int e = f.begin("MemcpyAsync")) return e;
    f.expect(f.inside(kind == kCudaToDevice ? to : from, bytes, f.device_), "a copy outside device memory");
    if (kind == kCudaToHost) f.expect(f.inside(to, bytes, f.pinned_), "a copy to memory that is not pinned");
    f.submit(stream, [=] { std::memcpy(to, from, bytes); });
    return kCudaSuccess;
  }
  static int MemsetAsync(void* pointer, int value, size_t bytes, CudaStream stream) {
    FakeCuda& f = fake();
    if (const int e = f.begin("MemsetAsync")) return e;
    f.expect(f.inside(pointer, bytes, f.device_), "a memset outside device memory");
    f.submit(stream, [=] { std::memset(pointer, value, bytes); });
    return kCudaSuccess;
  }
  static int StreamCreateWithFlags(CudaStream* stream, unsigned flags) {
    FakeCuda& f = fake();
    if (const int e = f.begin("StreamCreateWithFlags")) return e;
    f.expect(flags == kCudaStreamNonBlocking, "a stream that waits for the default stream");
    *stream = static_cast<CudaStream>(handle(f.streams_));
    return kCudaSuccess;
  }
  static int StreamSynchronize(CudaStream stream) {
    FakeCuda& f = fake();
    if (const int e = f.begin("StreamSynchronize")) return e;
    f.expect(f.streams_.contains(stream), "waiting for a dead stream");
    f.expect(f.capturing_ != stream, "waiting for a stream while it is captured");
    return kCudaSuccess;
  }
  static int StreamDestroy(CudaStream stream) { return drop("StreamDestroy", fake().streams_, stream); }
  static int StreamBeginCapture(CudaStream stream, int) {
    FakeCuda& f = fake();
    if (const int e = f.begin("StreamBeginCapture")) return e;
    f.expect(f.capturing_ == nullptr && f.streams_.contains(stream), "capturing a dead stream, or twice");
    f.capturing_ = stream;
    f.captured_.clear();
    return kCudaSuccess;
  }
  static int StreamEndCapture(CudaStream stream, CudaGraph* graph) {
    FakeCuda& f = fake();
    f.expect(f.capturing_ == stream, "ending a capture that was not begun");
    f.capturing_ = nullptr;
    *graph = nullptr;
    if (const int e = f.begin("StreamEndCapture")) return e;
    void* const made = handle(f.graphs_);
    f.graphs_[made] = std::move(f.captured_);
    *graph = static_cast<CudaGraph>(made);
    return kCudaSuccess;
  }
  static int EventCreateWithFlags(CudaEvent* event, unsigned) {
    FakeCuda& f = fake();
    if (const int e = f.begin("EventCreateWithFlags")) return e;
    *event = static_cast<CudaEvent>(handle(f.events_));
    return kCudaSuccess;
  }
  static int EventRecord(CudaEvent event, CudaStream stream) {
    FakeCuda& f = fake();
    if (const int e = f.begin("EventRecord")) return e;
    f.expect(f.events_.contains(event) && f.streams_.contains(stream), "recording a dead event or stream");
    f.queries_ = f.queries_before_ready;
    return kCudaSuccess;
  }
  static int EventQuery(CudaEvent event) {
    FakeCuda& f = fake();
    if (const int e = f.begin("EventQuery")) return e;
    f.expect(f.events_.contains(event), "asking a dead event");
    return f.queries_-- > 0 ? kCudaNotReady : kCudaSuccess;
  }
  static int EventDestroy(CudaEvent event) { return drop("EventDestroy", fake().events_, event); }
  static int GraphInstantiateWithFlags(CudaGraphExec* exec, CudaGraph graph, unsigned long long) {
    FakeCuda& f = fake();
    if (const int e = f.begin("GraphInstantiateWithFlags")) return e;
    f.expect(f.graphs_.contains(graph), "instantiating a dead graph");
    void* const made = handle(f.execs_);
    f.execs_[made] = f.graphs_[graph];
    *exec = static_cast<CudaGraphExec>(made);
    return kCudaSuccess;
  }
  static int GraphLaunch(CudaGraphExec exec, CudaStream stream) {
    FakeCuda& f = fake();
    if (const int e = f.begin("GraphLaunch")) return e;
    f.expect(f.execs_.contains(exec) && f.streams_.contains(stream), "launching a dead graph, or on a dead stream");
    for (const auto& work : f.execs_[exec]) work.run();
    return kCudaSuccess;
  }
  static int GraphDestroy(CudaGraph graph) { return drop("GraphDestroy", fake().graphs_, graph); }
  static int GraphExecDestroy(CudaGraphExec exec) { return drop("GraphExecDestroy", fake().execs_, exec); }
  static int LibraryLoadData(CudaLibrary* library, const void* code, int*, void**, unsigned, int*, void**, unsigned) {
    FakeCuda& f = fake();
    if (const int e = f.begin("LibraryLoadData")) return e;
    void* const made = handle(f.libraries_);
    f.libraries_[made] = static_cast<const char*>(code);
    *library = static_cast<CudaLibrary>(made);
    return kCudaSuccess;
  }
  static int LibraryGetKernel(CudaKernel* kernel, CudaLibrary library, const char* name) {
    FakeCuda& f = fake();
    if (const int e = f.begin("LibraryGetKernel")) return e;
    f.expect(f.libraries_.contains(library), "a kernel of a dead library");
    void* const made = f.new_handle();
    f.kernels_[made] = {library, name};
    *kernel = static_cast<CudaKernel>(made);
    return kCudaSuccess;
  }
  static int LibraryUnload(CudaLibrary library) { return drop("LibraryUnload", fake().libraries_, library); }
  static int FuncSetAttribute(const void* function, int attribute, int value) {
    FakeCuda& f = fake();
    if (const int e = f.begin("FuncSetAttribute")) return e;
    f.expect(attribute == kCudaFunctionSharedBytes && f.kernels_.contains(function), "an attribute of no kernel");
    f.shared_[function] = value;
    return value <= f.shared_optin ? kCudaSuccess : kInvalidValue;
  }
  static int LaunchKernelExC(const CudaLaunchConfig* config, const void* function, void** arguments);
  static int GetLastError() { return fake().begin("GetLastError"); }
  static const char* GetErrorString(int error) {
    fake().calls.emplace_back("GetErrorString");
    return error == kCudaOutOfMemory ? "out of memory" : "made up by a test";
  }
};

int FakeCalls::LaunchKernelExC(const CudaLaunchConfig* config, const void* function, void** arguments) {
  FakeCuda& f = fake();
  if (const int e = f.begin("LaunchKernelExC")) return e;
  const auto found = f.kernels_.find(function);
  f.expect(found != f.kernels_.end() && f.libraries_.contains(found->second.first), "a launch of a dead kernel");
  if (found == f.kernels_.end()) return kInvalidHandle;
  f.expect(config->attribute_count == 0 && config->block.y == 1 && config->block.z == 1, "a launch of odd shape");
  const auto shared = f.shared_.find(function);
  f.expect(config->shared_bytes <= (shared == f.shared_.end() ? kDefaultShared : static_cast<size_t>(shared->second)),
           "more shared memory than was asked for");
  FakeLaunch launch;
  // Fake code is "KEY POINTERS", up to a NUL.
  const std::string code = f.libraries_[found->second.first];
  launch.code = code.substr(0, code.find(' '));
  launch.entry = found->second.second;
  launch.grid = config->grid;
  launch.block = config->block;
  launch.shared_bytes = config->shared_bytes;
  const size_t pointers = code.find(' ') == std::string::npos ? 0 : std::stoul(code.substr(code.find(' ')));
  for (size_t i = 0; i < pointers + 2; ++i) {
    void* const pointer = *static_cast<void**>(arguments[i]);
    f.expect(i < pointers ? f.inside(pointer, 1, f.device_) : pointer == nullptr,
             "argument " + std::to_string(i) + " of " + launch.entry + " is no device memory, or no null at the end");
    if (i >= pointers) continue;
    launch.pointers.push_back(pointer);
    launch.rooms.push_back(f.room(pointer, f.device_));
  }
  f.submit(config->stream, [launch] {
    current->launches.push_back(launch);
    if (current->execute) current->execute(launch);
  });
  return kCudaSuccess;
}

FakeCuda::FakeCuda() : before_(current) {
  current = this;
#define GAITCRAFTER_FAKE(call) api_.call = &FakeCalls::call
  GAITCRAFTER_FAKE(GetDeviceCount);
  GAITCRAFTER_FAKE(SetDevice);
  GAITCRAFTER_FAKE(DeviceGetAttribute);
  GAITCRAFTER_FAKE(MemGetInfo);
  GAITCRAFTER_FAKE(Malloc);
  GAITCRAFTER_FAKE(Free);
  GAITCRAFTER_FAKE(MallocHost);
  GAITCRAFTER_FAKE(FreeHost);
  GAITCRAFTER_FAKE(MemcpyAsync);
  GAITCRAFTER_FAKE(MemsetAsync);
  GAITCRAFTER_FAKE(StreamCreateWithFlags);
  GAITCRAFTER_FAKE(StreamSynchronize);
  GAITCRAFTER_FAKE(StreamDestroy);
  GAITCRAFTER_FAKE(StreamBeginCapture);
  GAITCRAFTER_FAKE(StreamEndCapture);
  GAITCRAFTER_FAKE(EventCreateWithFlags);
  GAITCRAFTER_FAKE(EventRecord);
  GAITCRAFTER_FAKE(EventQuery);
  GAITCRAFTER_FAKE(EventDestroy);
  GAITCRAFTER_FAKE(GraphInstantiateWithFlags);
  GAITCRAFTER_FAKE(GraphLaunch);
  GAITCRAFTER_FAKE(GraphDestroy);
  GAITCRAFTER_FAKE(GraphExecDestroy);
  GAITCRAFTER_FAKE(LibraryLoadData);
  GAITCRAFTER_FAKE(LibraryGetKernel);
  GAITCRAFTER_FAKE(LibraryUnload);
  GAITCRAFTER_FAKE(FuncSetAttribute);
  GAITCRAFTER_FAKE(LaunchKernelExC);
  GAITCRAFTER_FAKE(GetLastError);
  GAITCRAFTER_FAKE(GetErrorString);
#undef GAITCRAFTER_FAKE
}

FakeCuda::~FakeCuda() { current = before_; }

void FakeCuda::fail(const std::string& name, int at, int error) { failures_[name] = {at + made_[name], error}; }

int FakeCuda::begin(const char* name) {
  calls.emplace_back(name);
  const int made = ++made_[name];
  const auto found = failures_.find(name);
  return found != failures_.end() && found->second.first == made ? found->second.second : kCudaSuccess;
}

void* FakeCuda::new_handle() { return handles_.emplace_back(std::make_unique<char>()).get(); }

void FakeCuda::submit(CudaStream stream, std::function<void()> work) {
  expect(streams_.contains(stream), "work for a dead stream");
  if (capturing_ == stream && stream != nullptr) {
    captured_.push_back({std::move(work)});
  } else {
    work();
  }
}

size_t FakeCuda::room(const void* pointer, const std::map<const std::byte*, size_t>& memory) const {
  const auto* const p = static_cast<const std::byte*>(pointer);
  const auto after = memory.upper_bound(p);
  if (after == memory.begin()) return 0;
  const auto& [start, size] = *std::prev(after);
  return p < start + size ? static_cast<size_t>(start + size - p) : 0;
}

bool FakeCuda::inside(const void* pointer, size_t bytes, const std::map<const std::byte*, size_t>& memory) const {
  return bytes > 0 && bytes <= room(pointer, memory);
}

void FakeCuda::expect(bool fine, const std::string& what) {
  if (!fine) problems.push_back(what);
}

size_t FakeCuda::live() const {
  return device_.size() + pinned_.size() + streams_.size() + events_.size() + graphs_.size() + execs_.size() +
         libraries_.size();
}

size_t FakeCuda::count(std::string_view name) const {
  return static_cast<size_t>(std::count(calls.begin(), calls.end(), name));
}

}  // namespace gaitcrafter::testing
