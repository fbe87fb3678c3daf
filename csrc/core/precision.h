// Precision tiers of the native engine.
#pragma once

#include <optional>
#include <string_view>

#include "core/isa.h"

namespace gaitcrafter {

// kBf16: bfloat16 activations and weights; sums, statistics, softmax, the sampler and an eps-model's last layer are
// fp32.
// kFp32Winograd: kFp32 with its 3x3 convolutions by Winograd's F(2x2, 3x3): fewer multiplications, another rounding.
// kInt8: kBf16 whose calibrated 3x3 convolutions multiply 8-bit integers.
enum class Precision : int { kFp32 = 0, kBf16 = 1, kInt8 = 2, kFp32Winograd = 3 };

// "fp32", "fp32-winograd", "bf16", "int8".
std::string_view precision_name(Precision precision);

inline constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kFp32Winograd, Precision::kBf16,
                                            Precision::kInt8};

// Nothing if no precision has that name.
std::optional<Precision> precision_named(std::string_view name);

// True if this processor runs the precision with that instruction set: bf16 needs avx512 and the avx512_bf16 cpuid
// bit, int8 avx512_vnni besides.
bool precision_supported(Precision precision, Isa isa);

// What "auto" comes to: bf16 where it is supported and faster, else fp32.
Precision best_precision(Isa isa);

}  // namespace gaitcrafter
