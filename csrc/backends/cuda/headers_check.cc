// Compiled where CUDA's headers are found, and never linked: the declarations of cuda_api.h are those of the headers.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <type_traits>

#include "backends/cuda/cuda_api.h"

namespace gaitcrafter {
namespace {

static_assert(sizeof(CudaDim3) == sizeof(dim3) && alignof(CudaDim3) == alignof(dim3));
static_assert(sizeof(CudaLaunchConfig) == sizeof(cudaLaunchConfig_t));
static_assert(offsetof(CudaLaunchConfig, grid) == offsetof(cudaLaunchConfig_t, gridDim));
static_assert(offsetof(CudaLaunchConfig, block) == offsetof(cudaLaunchConfig_t, blockDim));
static_assert(offsetof(CudaLaunchConfig, shared_bytes) == offsetof(cudaLaunchConfig_t, dynamicSmemBytes));
static_assert(offsetof(CudaLaunchConfig, stream) == offsetof(cudaLaunchConfig_t, stream));
static_assert(offsetof(CudaLaunchConfig, attributes) == offsetof(cudaLaunchConfig_t, attrs));
static_assert(offsetof(CudaLaunchConfig, attribute_count) == offsetof(cudaLaunchConfig_t, numAttrs));

static_assert(sizeof(cudaError_t) == sizeof(int) && sizeof(cudaDeviceAttr) == sizeof(int));
static_assert(sizeof(cudaFuncAttribute) == sizeof(int) && sizeof(cudaMemcpyKind) == sizeof(int));
static_assert(sizeof(cudaStream_t) == sizeof(CudaStream) && sizeof(cudaKernel_t) == sizeof(CudaKernel));
static_assert(kCudaSuccess == cudaSuccess && kCudaOutOfMemory == cudaErrorMemoryAllocation);
static_assert(kCudaInsufficientDriver == cudaErrorInsufficientDriver && kCudaNoDevice == cudaErrorNoDevice);
static_assert(kCudaInvalidDevice == cudaErrorInvalidDevice && kCudaNotReady == cudaErrorNotReady);
static_assert(kCudaNoKernelImage == cudaErrorNoKernelImageForDevice);
static_assert(kCudaUnsupportedPtx == cudaErrorUnsupportedPtxVersion);
static_assert(kCudaAttributeMajor == cudaDevAttrComputeCapabilityMajor);
static_assert(kCudaAttributeMinor == cudaDevAttrComputeCapabilityMinor);
static_assert(kCudaAttributeSharedOptin == cudaDevAttrMaxSharedMemoryPerBlockOptin);
static_assert(kCudaFunctionSharedBytes == cudaFuncAttributeMaxDynamicSharedMemorySize);
static_assert(kCudaToDevice == cudaMemcpyHostToDevice && kCudaToHost == cudaMemcpyDeviceToHost);
static_assert(kCudaStreamNonBlocking == cudaStreamNonBlocking && kCudaEventNoTiming == cudaEventDisableTiming);
static_assert(kCudaCaptureThreadLocal == cudaStreamCaptureModeThreadLocal);

// Number and sizes of the parameters; enumerations and handles differ in name.
template <typename Ours, typename Theirs>
struct SameShape : std::false_type {};
template <typename... A, typename... B, typename R, typename S>
requires(sizeof...(A) == sizeof...(B)) struct SameShape<R (*)(A...), S (*)(B...)>
    : std::bool_constant<sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ...)> {
};

#define GAITCRAFTER_SAME(call) static_assert(SameShape<decltype(CudaApi::call), decltype(+&cuda##call)>::value)
GAITCRAFTER_SAME(GetDeviceCount);
GAITCRAFTER_SAME(SetDevice);
GAITCRAFTER_SAME(DeviceGetAttribute);
GAITCRAFTER_SAME(MemGetInfo);
GAITCRAFTER_SAME(Free);
GAITCRAFTER_SAME(FreeHost);
GAITCRAFTER_SAME(MemcpyAsync);
GAITCRAFTER_SAME(MemsetAsync);
GAITCRAFTER_SAME(StreamCreateWithFlags);
GAITCRAFTER_SAME(StreamSynchronize);
GAITCRAFTER_SAME(StreamDestroy);
GAITCRAFTER_SAME(StreamBeginCapture);
GAITCRAFTER_SAME(StreamEndCapture);
GAITCRAFTER_SAME(EventQuery);
GAITCRAFTER_SAME(EventDestroy);
GAITCRAFTER_SAME(GraphInstantiateWithFlags);
GAITCRAFTER_SAME(GraphLaunch);
GAITCRAFTER_SAME(GraphDestroy);
GAITCRAFTER_SAME(GraphExecDestroy);
GAITCRAFTER_SAME(LibraryLoadData);
GAITCRAFTER_SAME(LibraryGetKernel);
GAITCRAFTER_SAME(LibraryUnload);
GAITCRAFTER_SAME(LaunchKernelExC);
GAITCRAFTER_SAME(GetLastError);
#undef GAITCRAFTER_SAME
// These have overloads in the headers.
static_assert(SameShape<decltype(CudaApi::Malloc), cudaError_t (*)(void**, size_t)>::value);

}  // namespace
}  // namespace gaitcrafter
