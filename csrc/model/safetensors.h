// Reading a safetensors file that may be hostile, against the list of tensors that must be in it.
// Format: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON header, data).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/mapped_file.h"

namespace gaitcrafter {

class WeightsFile {
 public:
  // Checks the header, every name, type, shape and offset before any tensor is read or memory for one is taken.
  // F32 stays in the map; F16 and BF16 are converted. Throws kModelFormat; kOutOfMemory if conversion finds no memory.
  WeightsFile(std::shared_ptr<const MappedFile> file, std::span<const TensorSpec> expected);

  // fp32 values of expected[i].
  const float* values(size_t i) const { return values_[i]; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<const float*> values_;
  std::vector<std::unique_ptr<float[]>> converted_;
};

// True if the bytes start like a zip archive or a pickle, the two forms of a PyTorch checkpoint.
bool looks_like_pickle(std::span<const std::byte> bytes);

float half_to_float(uint16_t h);
float bfloat16_to_float(uint16_t h);

}  // namespace gaitcrafter
