// The arithmetic limit that profiles and benchmarks quote: what one core does with operands in registers alone.
#pragma once

#include <optional>
#include <string_view>

#include "core/isa.h"

namespace gaitcrafter {

// kFp32: multiply-adds of floats (a multiplication and an addition where the set has no FMA). kBf16: vdpbf16ps, pairs
// of bfloat16 into fp32; with kAvx512Amx tdpbf16ps, tiles of them. kInt8: vpdpbusd, fours of bytes into int32; tdpbusd.
enum class Arithmetic : int { kFp32 = 0, kBf16 = 1, kInt8 = 2 };

// "fp32", "bf16", "int8"; nothing for any other name.
std::optional<Arithmetic> arithmetic_named(std::string_view name);

bool arithmetic_supported(Arithmetic arithmetic, Isa isa);

// Operations per second of the calling thread, two per multiply-add, over its own processor time: the best of several
// short runs, some 30 ms in all. Throws kCapability if this processor lacks the instruction.
double processor_rate(Arithmetic arithmetic, Isa isa);

}  // namespace gaitcrafter
