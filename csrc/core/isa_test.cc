#include "core/isa.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "core/error.h"

namespace gaitcrafter {
namespace {

class IsaTest : public ::testing::Test {
 protected:
  void TearDown() override { unsetenv("GAITCRAFTER_ISA"); }
};

// The kernel lists what it lets programs use; an independent reading of the same bits.
bool kernel_lists(const std::string& flag) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);)
    if (line.rfind("flags", 0) == 0) return (line + " ").find(" " + flag + " ") != std::string::npos;
  return false;
}

TEST_F(IsaTest, AgreesWithTheKernel) {
  EXPECT_TRUE(isa_supported(Isa::kPortable));
  EXPECT_EQ(isa_supported(Isa::kAvx2), kernel_lists("avx2") && kernel_lists("fma"));
  EXPECT_EQ(isa_supported(Isa::kAvx512), kernel_lists("avx512f") && kernel_lists("avx512bw") &&
                                             kernel_lists("avx512dq") && kernel_lists("avx512vl"));
  // The kernel may refuse what the processor has (allowed_tiles).
  if (isa_supported(Isa::kAvx512Amx)) {
    for (const char* flag : {"amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni"})
      EXPECT_TRUE(kernel_lists(flag)) << flag;
  }
}

TEST_F(IsaTest, ChoosesTheWidest) {
  unsetenv("GAITCRAFTER_ISA");
  const Isa isa = choose_isa();
  EXPECT_TRUE(isa_supported(isa));
  if (isa != Isa::kAvx512Amx) {
    EXPECT_FALSE(isa_supported(static_cast<Isa>(static_cast<int>(isa) + 1)));
  }
  setenv("GAITCRAFTER_ISA", "", 1);
  EXPECT_EQ(choose_isa(), isa);
}

TEST_F(IsaTest, ObeysTheEnvironment) {
  for (const Isa isa : kIsas) {
    setenv("GAITCRAFTER_ISA", std::string(isa_name(isa)).c_str(), 1);
    if (isa_supported(isa)) {
      EXPECT_EQ(choose_isa(), isa);
      continue;
    }
    try {
      choose_isa();
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.status(), Status::kCapability);
    }
  }
}

// In a process of its own: what the kernel once allowed it does not take back. A signal frame with tiles does not fit
// into this signal stack, so the kernel refuses them when it is asked.
TEST_F(IsaTest, DoesWithoutTilesThatTheKernelRefuses) {
  if (!kernel_lists("amx_tile")) GTEST_SKIP() << "this processor has no AMX, or the kernel does not know it";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        static char memory[8192];
        stack_t stack = {};
        stack.ss_sp = memory;
        stack.ss_size = sizeof memory;
        const bool small = sigaltstack(&stack, nullptr) == 0;
        const bool right = !isa_supported(Isa::kAvx512Amx) && choose_isa() == Isa::kAvx512;
        std::exit(small && right ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(IsaTest, RefusesAnUnknownName) {
  setenv("GAITCRAFTER_ISA", "avx1024", 1);
  try {
    choose_isa();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.status(), Status::kInvalidRequest);
    EXPECT_NE(std::string(e.what()).find("avx1024"), std::string::npos);
  }
}

}  // namespace
}  // namespace gaitcrafter
