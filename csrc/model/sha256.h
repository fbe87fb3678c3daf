// SHA-256 (FIPS 180-4), for the checksums of a model package.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace gaitcrafter {

enum class ShaUnit { kPortable, kInstructions };

// The fastest that this processor has.
ShaUnit best_sha_unit();

// Lower-case hex digest of `data`. kInstructions needs sha_instructions_supported().
std::string sha256_hex(std::span<const std::byte> data, ShaUnit unit = best_sha_unit());

}  // namespace gaitcrafter
