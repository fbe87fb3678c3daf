// SHA-256 (FIPS 180-4), for the checksums of a model package.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace gaitcrafter {

// Lower-case hex digest of `data`.
std::string sha256_hex(std::span<const std::byte> data);

}  // namespace gaitcrafter
