// The calls of the CUDA runtime that the cubin backend makes, as one table: filled from libcudart, which is opened at
// run time, or by a test. Declared here with the layouts of cuda_runtime_api.h, so that building takes no CUDA toolkit;
// headers_check.cc compares both where the headers are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gaitcrafter {

// Handles are pointers to what only CUDA knows. The names are CUDA's own.
using CudaStream = struct CUstream_st*;
using CudaEvent = struct CUevent_st*;
using CudaGraph = struct CUgraph_st*;
using CudaGraphExec = struct CUgraphExec_st*;
using CudaLibrary = struct CUlib_st*;
using CudaKernel = struct CUkern_st*;

struct CudaDim3 {
  unsigned x = 1, y = 1, z = 1;
};

// cudaLaunchConfig_t
struct CudaLaunchConfig {
  CudaDim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  CudaStream stream = nullptr;
  void* attributes = nullptr;
  unsigned attribute_count = 0;
};

// Numbers of cudaError, cudaDeviceAttr, cudaFuncAttribute, cudaMemcpyKind and flags.
inline constexpr int kCudaSuccess = 0, kCudaOutOfMemory = 2, kCudaInsufficientDriver = 35, kCudaNoDevice = 100,
                     kCudaInvalidDevice = 101, kCudaNoKernelImage = 209, kCudaUnsupportedPtx = 222, kCudaNotReady = 600;
inline constexpr int kCudaAttributeMajor = 75, kCudaAttributeMinor = 76, kCudaAttributeSharedOptin = 97;
inline constexpr int kCudaFunctionSharedBytes = 8;
inline constexpr int kCudaToDevice = 1, kCudaToHost = 2;
inline constexpr unsigned kCudaStreamNonBlocking = 1, kCudaEventNoTiming = 2;
inline constexpr int kCudaCaptureThreadLocal = 1;

// Every entry returns a cudaError, 0 for success, but for error_string.
struct CudaApi {
  int (*GetDeviceCount)(int* count) = nullptr;
  int (*SetDevice)(int device) = nullptr;
  int (*DeviceGetAttribute)(int* value, int attribute, int device) = nullptr;
  int (*MemGetInfo)(size_t* free_bytes, size_t* total_bytes) = nullptr;
  int (*Malloc)(void** pointer, size_t bytes) = nullptr;
  int (*Free)(void* pointer) = nullptr;
  int (*MallocHost)(void** pointer, size_t bytes) = nullptr;
  int (*FreeHost)(void* pointer) = nullptr;
  int (*MemcpyAsync)(void* to, const void* from, size_t bytes, int kind, CudaStream stream) = nullptr;
  int (*MemsetAsync)(void* pointer, int value, size_t bytes, CudaStream stream) = nullptr;
  int (*StreamCreateWithFlags)(CudaStream* stream, unsigned flags) = nullptr;
  int (*StreamSynchronize)(CudaStream stream) = nullptr;
  int (*StreamDestroy)(CudaStream stream) = nullptr;
  int (*StreamBeginCapture)(CudaStream stream, int mode) = nullptr;
  int (*StreamEndCapture)(CudaStream stream, CudaGraph* graph) = nullptr;
  int (*EventCreateWithFlags)(CudaEvent* event, unsigned flags) = nullptr;
  int (*EventRecord)(CudaEvent event, CudaStream stream) = nullptr;
  int (*EventQuery)(CudaEvent event) = nullptr;
  int (*EventDestroy)(CudaEvent event) = nullptr;
  int (*GraphInstantiateWithFlags)(CudaGraphExec* exec, CudaGraph graph, unsigned long long flags) = nullptr;
  int (*GraphLaunch)(CudaGraphExec exec, CudaStream stream) = nullptr;
  int (*GraphDestroy)(CudaGraph graph) = nullptr;
  int (*GraphExecDestroy)(CudaGraphExec exec) = nullptr;
  int (*LibraryLoadData)(CudaLibrary* library, const void* code, int* jit_options, void** jit_values,
                         unsigned jit_count, int* options, void** values, unsigned count) = nullptr;
  int (*LibraryGetKernel)(CudaKernel* kernel, CudaLibrary library, const char* name) = nullptr;
  int (*LibraryUnload)(CudaLibrary library) = nullptr;
  int (*FuncSetAttribute)(const void* function, int attribute, int value) = nullptr;
  int (*LaunchKernelExC)(const CudaLaunchConfig* config, const void* function, void** arguments) = nullptr;
  int (*GetLastError)() = nullptr;  // takes the error back, so that later calls do not report it again
  const char* (*GetErrorString)(int error) = nullptr;
};

// Opens libcudart once per process and fills the table: `path` if given, else the libraries of CUDA 13 and 12 that the
// loader finds. Throws kMissingExtra if there is none, kCapability if it lacks a call (cudaLibraryLoadData came with
// CUDA 12.8).
const CudaApi& cuda_runtime(const std::string& path);

// Throws what `error` stands for: kOutOfMemory, kCapability (no driver, no device, no code for this chip) or kInternal.
// `what` says what was being done, "copying the weights to the GPU".
void check_cuda(const CudaApi& api, int error, const std::string& what);

}  // namespace gaitcrafter
