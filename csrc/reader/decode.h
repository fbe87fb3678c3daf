// Packed bits to pixels, compiled once per instruction set. The result is the same on each of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace gaitcrafter {

// `packed` holds (pixels + 7) / 8 bytes, first pixel in the top bit; `out` gets `on` for a set bit and 0 otherwise.
struct DecodeTable {
  void (*to_uint8)(const uint8_t* packed, size_t pixels, uint8_t on, uint8_t* out);
  void (*to_float)(const uint8_t* packed, size_t pixels, float on, float* out);
};

// Throws kCapability if this processor does not run `isa`.
const DecodeTable& decode_table(Isa isa);

}  // namespace gaitcrafter
