// Instruction sets that the native engine is compiled for, and the choice among them.
#pragma once

#include <string_view>

namespace gaitcrafter {

// Each has all that the ones before it have. kAvx512Amx is AVX-512 with bfloat16 and 8-bit products and the matrix unit
// AMX; in fp32 it is the same as kAvx512.
enum class Isa : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Amx = 3 };

inline constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Amx};

// "portable", "avx2", "avx512", "avx512_amx", and all of them for a message.
std::string_view isa_name(Isa isa);
inline constexpr std::string_view kIsaChoices = "\"portable\", \"avx2\", \"avx512\" and \"avx512_amx\"";

// True if this processor and operating system run the tier (cpuid bits and xgetbv, never model names). Linux lets a
// process use AMX only if it asks (arch_prctl): the first call here asks, once, where everything else is there.
bool isa_supported(Isa isa);

// True if this processor has the SHA instructions (and SSE 4.1, whose shuffles go with them).
bool sha_instructions_supported();

// True if this processor multiplies pairs of bfloat16 (cpuid bit avx512_bf16) beside running kAvx512.
bool bf16_products_supported();

// True if it does more operations a second by them (vdpbf16ps) than by multiply-adds of floats.
bool bf16_products_fast();

// True if this processor multiplies fours of 8-bit integers (cpuid bit avx512_vnni) beside running kAvx512.
bool int8_products_supported();

// The widest supported tier, or the one that the environment variable GAITCRAFTER_ISA names.
// Throws kCapability if that one is not supported here, kInvalidRequest if the name is unknown.
Isa choose_isa();

}  // namespace gaitcrafter
