// GPUs by number, and what tells one model of them from another.
#pragma once

#include <string>

#include "backends/cuda/cuda_api.h"

namespace gaitcrafter {

// "cuda" or "cuda:3" to the number of the GPU. Throws kInvalidRequest, naming the backend.
int cuda_device_number(const std::string& device, const std::string& backend);

// Makes GPU `device` this thread's, and says what it is: "sm_90 132 processors 52428800 bytes L2 5120 bits bus"
// (backends/cudart.py). Throws kCapability without a driver or without such a GPU.
std::string gpu_text(const CudaApi& api, int device);

}  // namespace gaitcrafter
