#include "ops/op_table.h"

#include <string>

#include "core/error.h"

namespace gaitcrafter {

extern const OpTable kOpsPortable;
extern const OpTable kOpsAvx2;
extern const OpTable kOpsAvx512;
extern const OpTable kOpsAvx512Bf16;
extern const OpTable kOpsAvx512Int8;
extern const OpTable kOpsAmxBf16;
extern const OpTable kOpsAmxInt8;

const OpTable& op_table(Isa isa, Precision precision) {
  if (!isa_supported(isa)) {
    throw Error(Status::kCapability,
                "the instruction set " + std::string(isa_name(isa)) + " is not available on this processor");
  }
  if (!precision_supported(precision, isa)) {
    throw Error(Status::kCapability,
                "precision " + std::string(precision_name(precision)) + " needs a processor with " +
                    (precision == Precision::kInt8 ? "avx512_bf16 and avx512_vnni" : "avx512_bf16") +
                    " and the instruction set avx512; this engine runs " + std::string(isa_name(isa)) +
                    "; use precision fp32 or auto");
  }
  const bool amx = isa == Isa::kAvx512Amx;
  if (precision == Precision::kBf16) return amx ? kOpsAmxBf16 : kOpsAvx512Bf16;
  if (precision == Precision::kInt8) return amx ? kOpsAmxInt8 : kOpsAvx512Int8;
  switch (isa) {
    case Isa::kAvx2:
      return kOpsAvx2;
    case Isa::kAvx512:
    case Isa::kAvx512Amx:
      return kOpsAvx512;
    default:
      return kOpsPortable;
  }
}

}  // namespace gaitcrafter
