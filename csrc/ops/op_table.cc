#include "ops/op_table.h"

#include <string>

#include "core/error.h"

namespace gaitcrafter {

extern const OpTable kOpsPortable;
extern const OpTable kOpsAvx2;
extern const OpTable kOpsAvx512;

const OpTable& op_table(Isa isa) {
  if (!isa_supported(isa)) {
    throw Error(Status::kCapability,
                "the instruction set " + std::string(isa_name(isa)) + " is not available on this processor");
  }
  switch (isa) {
    case Isa::kAvx2:
      return kOpsAvx2;
    case Isa::kAvx512:
      return kOpsAvx512;
    default:
      return kOpsPortable;
  }
}

}  // namespace gaitcrafter
