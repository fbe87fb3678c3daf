#include "model/sha256.h"

#include <gtest/gtest.h>

#include <string>

#include "core/isa.h"

namespace gaitcrafter {
namespace {

class Sha256 : public ::testing::TestWithParam<ShaUnit> {
 protected:
  void SetUp() override {
    if (GetParam() == ShaUnit::kInstructions && !sha_instructions_supported())
      GTEST_SKIP() << "this processor has no SHA instructions";
  }
  static std::string digest(const std::string& text) { return sha256_hex(std::as_bytes(std::span(text)), GetParam()); }
};

// Messages of NIST's "Examples with Intermediate Values" and of FIPS 180-2, appendix B.
TEST_P(Sha256, PublishedDigests) {
  EXPECT_EQ(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

// Around the block and padding boundaries; the digests are those of coreutils' sha256sum.
TEST_P(Sha256, BlockBoundaries) {
  EXPECT_EQ(digest(std::string(55, 'a')), "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(digest(std::string(56, 'a')), "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  EXPECT_EQ(digest(std::string(64, 'a')), "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

INSTANTIATE_TEST_SUITE_P(Units, Sha256, ::testing::Values(ShaUnit::kPortable, ShaUnit::kInstructions),
                         [](const auto& info) {
                           return info.param == ShaUnit::kPortable ? "Portable" : "Instructions";
                         });

}  // namespace
}  // namespace gaitcrafter
