#include "core/precision.h"

namespace gaitcrafter {

std::string_view precision_name(Precision precision) {
  switch (precision) {
    case Precision::kBf16:
      return "bf16";
    case Precision::kInt8:
      return "int8";
    case Precision::kFp32Winograd:
      return "fp32-winograd";
    default:
      return "fp32";
  }
}

std::optional<Precision> precision_named(std::string_view name) {
  for (const Precision p : kPrecisions)
    if (precision_name(p) == name) return p;
  return std::nullopt;
}

bool precision_supported(Precision precision, Isa isa) {
  if (precision == Precision::kFp32 || precision == Precision::kFp32Winograd) return isa_supported(isa);
  if (isa < Isa::kAvx512 || !isa_supported(isa) || !bf16_products_supported()) return false;
  return precision == Precision::kBf16 || int8_products_supported();
}

Precision best_precision(Isa isa) {
  const bool fast = isa == Isa::kAvx512Amx || bf16_products_fast();
  return fast && precision_supported(Precision::kBf16, isa) ? Precision::kBf16 : Precision::kFp32;
}

}  // namespace gaitcrafter
