#include "core/processor_rate.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "core/precision.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

TEST(ProcessorRate, IsARateWhereTheInstructionsRunAndAnErrorElsewhere) {
  for (const Isa isa : kIsas) {
    for (const Arithmetic a : {Arithmetic::kFp32, Arithmetic::kBf16, Arithmetic::kInt8}) {
      if (!arithmetic_supported(a, isa)) {
        EXPECT_ERROR(processor_rate(a, isa), kCapability, "this processor has no");
        continue;
      }
      const double rate = processor_rate(a, isa);
      EXPECT_GT(rate, 1e8);  // an emulator, or a unit of measure taken wrong
      EXPECT_LT(rate, 1e14);
    }
  }
}

TEST(ProcessorRate, IntegersAndBfloat16NeedAvx512) {
  for (const Arithmetic a : {Arithmetic::kBf16, Arithmetic::kInt8}) EXPECT_FALSE(arithmetic_supported(a, Isa::kAvx2));
  EXPECT_TRUE(arithmetic_supported(Arithmetic::kFp32, Isa::kPortable));
  EXPECT_EQ(arithmetic_supported(Arithmetic::kBf16, Isa::kAvx512), bf16_products_supported());
  EXPECT_EQ(arithmetic_supported(Arithmetic::kInt8, Isa::kAvx512), int8_products_supported());
  for (const Arithmetic a : {Arithmetic::kBf16, Arithmetic::kInt8})
    EXPECT_EQ(arithmetic_supported(a, Isa::kAvx512Amx), isa_supported(Isa::kAvx512Amx));
}

// The vendor as Linux names it.
TEST(ProcessorRate, BfloatsByVectorsAreFastOnProcessorsOfOthersThanIntel) {
  if (!arithmetic_supported(Arithmetic::kBf16, Isa::kAvx512)) GTEST_SKIP() << "this processor has no avx512_bf16";
  std::ifstream file("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  ASSERT_NE(text.find("vendor_id"), std::string::npos);
  const bool intel = text.find("GenuineIntel") != std::string::npos;
  EXPECT_EQ(bf16_products_fast(), !intel);
  EXPECT_EQ(best_precision(Isa::kAvx512), intel ? Precision::kFp32 : Precision::kBf16);
  if (isa_supported(Isa::kAvx512Amx)) {
    EXPECT_EQ(best_precision(Isa::kAvx512Amx), Precision::kBf16);
  }
}

TEST(ProcessorRate, KnowsItsNames) {
  EXPECT_EQ(arithmetic_named("fp32"), Arithmetic::kFp32);
  EXPECT_EQ(arithmetic_named("bf16"), Arithmetic::kBf16);
  EXPECT_EQ(arithmetic_named("int8"), Arithmetic::kInt8);
  EXPECT_EQ(arithmetic_named("fp64"), std::nullopt);
}

}  // namespace
}  // namespace gaitcrafter
