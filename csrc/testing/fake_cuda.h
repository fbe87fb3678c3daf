// A stand-in for the CUDA runtime: it records every call, keeps device memory on the host, checks that pointers and
// handles are alive where they are used, makes any call fail on demand, and hands launches to whoever wants to execute
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/cuda_api.h"

namespace gaitcrafter::testing {

// A kernel start: what lies at the kernel's code (in fake packs its key), and its pointers without the last two.
struct FakeLaunch {
  std::string code, entry;
  CudaDim3 grid, block;
  size_t shared_bytes = 0;
  std::vector<void*> pointers;
  std::vector<size_t> rooms;  // bytes from each pointer to the end of its memory
};

class FakeCuda {
 public:
  FakeCuda();
  ~FakeCuda();
  FakeCuda(const FakeCuda&) = delete;

  const CudaApi& api() const { return api_; }

  // What the machine has.
  int devices = 1, major = 9, minor = 0, shared_optin = 227 << 10;
  size_t memory = size_t{1} << 40;
  int queries_before_ready = 0;  // how often an event answers "not ready"

  // Executes launches; without it they are recorded alone.
  std::function<void(const FakeLaunch&)> execute;
  // The call of that name fails with `error` when it is made for the `at`th time (from 1).
  void fail(const std::string& name, int at, int error);

  std::vector<std::string> calls;     // names in order
  std::vector<FakeLaunch> launches;   // as executed: a graph's each time it is launched
  std::vector<std::string> problems;  // what a program did wrong: a dead handle, a copy out of bounds, ...
  size_t live() const;                // handles and memory that were not given back
  size_t count(std::string_view name) const;

 private:
  friend struct FakeCalls;
  struct Work {
    std::function<void()> run;
  };
  using Queue = std::vector<Work>;

  int begin(const char* name);
  void* new_handle();
  void submit(CudaStream stream, std::function<void()> work);
  size_t room(const void* pointer, const std::map<const std::byte*, size_t>& memory) const;
  bool inside(const void* pointer, size_t bytes, const std::map<const std::byte*, size_t>& memory) const;
  void expect(bool fine, const std::string& what);

  CudaApi api_;
  std::map<std::string, std::pair<int, int>> failures_;
  std::map<std::string, int> made_;
  std::map<const std::byte*, size_t> device_, pinned_;
  std::map<const void*, std::unique_ptr<std::byte[]>> storage_;
  std::set<void*> streams_, events_;
  std::map<void*, Queue> graphs_, execs_;
  std::map<void*, const char*> libraries_;
  std::map<const void*, std::pair<void*, std::string>> kernels_;  // to library and entry
  std::map<const void*, int> shared_;
  CudaStream capturing_ = nullptr;
  Queue captured_;
  std::vector<std::unique_ptr<char>> handles_;  // whose addresses the handles are
  int queries_ = 0;
  FakeCuda* before_ = nullptr;
};

}  // namespace gaitcrafter::testing
