// The JSON header of a safetensors file, read as a stream: nothing of it is kept but what was asked for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace gaitcrafter {

enum class WeightType { kF32, kF16, kBF16 };

struct HeaderEntry {
  WeightType dtype = WeightType::kF32;
  uint64_t begin = 0, end = 0;  // bytes from the start of the data
};

// One entry per expected tensor, in that order. Every name and shape is as expected, and end - begin is what dtype and
// shape need. Throws kModelFormat.
std::vector<HeaderEntry> read_header(std::string_view json, std::span<const TensorSpec> expected,
                                     const std::string& path);

}  // namespace gaitcrafter
