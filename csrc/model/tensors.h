// What a model of a given config must hold, in bytes too, with every product checked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "model/config.h"

namespace gaitcrafter {

// More than any model that this engine could run; the paper's size is 0.15 GiB.
inline constexpr uint64_t kMaxTensorBytes = uint64_t{8} << 30;

// Product of a shape; nothing if a size is negative or the product exceeds 2^62.
std::optional<uint64_t> element_count(std::span<const int64_t> shape);

// Sum of all tensors as fp32. Throws kModelFormat if above kMaxTensorBytes.
uint64_t total_fp32_bytes(std::span<const TensorSpec> tensors, const std::string& source);

}  // namespace gaitcrafter
