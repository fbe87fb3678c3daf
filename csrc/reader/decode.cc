#include "reader/decode.h"

#include <string>

#include "core/error.h"

namespace gaitcrafter {

extern const DecodeTable kDecodePortable;
extern const DecodeTable kDecodeAvx2;
extern const DecodeTable kDecodeAvx512;

const DecodeTable& decode_table(Isa isa) {
  if (!isa_supported(isa)) {
    throw Error(Status::kCapability,
                "the instruction set " + std::string(isa_name(isa)) + " is not available on this processor");
  }
  switch (isa) {
    case Isa::kAvx2:
      return kDecodeAvx2;
    case Isa::kAvx512:
    case Isa::kAvx512Amx:
      return kDecodeAvx512;
    default:
      return kDecodePortable;
  }
}

}  // namespace gaitcrafter
