// Precision tiers of the native engine.
#pragma once

#include <optional>
#include <string_view>

#include "core/isa.h"

namespace gaitcrafter {

// kBf16: bfloat16 activations and weights; sums, statistics, softmax, the sampler and an eps-model's last layer are
// fp32.
enum class Precision : int { kFp32 = 0, kBf16 = 1 };

// "fp32", "bf16".
std::string_view precision_name(Precision precision);

// Nothing if no precision has that name.
std::optional<Precision> precision_named(std::string_view name);

// True if this processor runs the precision with that instruction set: bf16 needs avx512 and the avx512_bf16 cpuid bit.
bool precision_supported(Precision precision, Isa isa);

// What "auto" comes to: bf16 where it is supported, else fp32.
Precision best_precision(Isa isa);

}  // namespace gaitcrafter
