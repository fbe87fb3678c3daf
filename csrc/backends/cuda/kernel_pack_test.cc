// Kernel packs of strangers: whatever a manifest says is checked before it is used.
#include "backends/cuda/kernel_pack.h"

#include <gtest/gtest.h>

#include "testing/fake_pack.h"
#include "testing/packages.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

// A pack whose manifest has `from` replaced by `to`; checksums fit.
class Changed {
 public:
  Changed(const std::string& from, const std::string& to) {
    testing::write_fake_pack(folder_.path(), [&](std::string& text) {
      const size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from;
      text.replace(at, from.size(), to);
    });
  }
  std::shared_ptr<const KernelPack> open() const { return open_kernel_pack(folder_.path().string()); }

 private:
  testing::TempFolder folder_;
};

TEST(KernelPack, AGoodOneIsRead) {
  const testing::TempFolder folder;
  testing::write_fake_pack(folder.path());
  EXPECT_TRUE(is_kernel_pack(folder.path().string()));
  const auto pack = open_kernel_pack(folder.path().string());
  EXPECT_EQ(pack->kernels.size(), 8u);
  EXPECT_EQ(pack->kernels[2].code[0].shared_bytes, 100000u);
  EXPECT_EQ(pack->list("main_2").size(), 2u);
  EXPECT_EQ(pack->sha256.size(), 64u);
  EXPECT_TRUE(pack->has_exact());
}

TEST(KernelPack, WhatAManifestSaysIsChecked) {
  const struct {
    const char *from, *to, *says;
  } cases[] = {
      {"{\"format\"", "[{\"format\"", "not JSON"},
      {"gaitcrafter-kernels", "something", "format must be"},
      {"\"film_floats\":144", "\"film_floats\":143", "multiple of 4"},
      {"\"film_floats\":144", "\"film_floats\":-4", "whole number"},
      {"\"film_floats\":144", "\"film_floats\":1e3", "whole number"},
      {"\"clip_floats\":192", "\"clip_floats\":99999999999", "whole number"},
      {"\"arena_bytes\":256", "\"arena_bytes\":255", "multiple of 256"},
      {"\"arena_bytes\":256", "\"arena_bytes\":9007199254740992", "whole number"},
      {"\"weight_bytes\":512", "\"weight_bytes\":1024", "has 512 bytes"},
      {"[\"arena\",0,256]", "[\"arena\",16,256]", "outside its memory"},
      {"[\"arena\",0,256]", "[\"arena\",8,16]", "outside its memory"},
      {"[\"weights\",256,256]", "[\"weights\",512,16]", "outside its memory"},
      {"[\"arena\",0,256]", "[\"attic\",0,0]", "is unknown"},
      {"[\"x\",0,0]", "[\"x\",16,0]", "whole number"},
      {"[1,\"lane\",[1,1,1]", "[8,\"lane\",[1,1,1]", "kernel is 8"},
      {"[1,\"lane\",[1,1,1]", "[1,\"room\",[1,1,1]", "unit is \"room\""},
      {"[1,\"lane\",[1,1,1]", "[1,\"lane\",[0,1,1]", "grid is 0"},
      {"[1,\"lane\",[1,1,1]", "[1,\"lane\",[1,65536,1]", "grid is 65536"},
      {"[[3,0],[4,0],[5,0]]", "[[3,0],[4,0]]", "arguments of film"},
      {"[[3,0],[4,0],[5,0]]", "[[3,0],[4,0],[15,0]]", "buffer is 15"},
      {"[[3,0],[4,0],[5,0]]", "[[3,0],[4,0],[5,256]]", "offset in a buffer"},
      {"[[3,0],[4,0],[5,0]]", "[[3,0],[4,0],[5,8]]", "aligned to 16"},
      {"\"pointers\":3", "\"pointers\":33", "pointers is 33"},
      {"[\"_noise\",0,", "[\"_noise\",100000,", "code offset"},
      {"[\"_noise\",0,", "[\"../noise\",0,", "characters that no name"},
      {"\"file\":\"images/sm_90.bin\"", "\"file\":\"../images/sm_90.bin\"", "characters that no name"},
      {"\"file\":\"images/sm_90.bin\"", "\"file\":\"/images/sm_90.bin\"", "characters that no name"},
      {"\"file\":\"images/sm_90.bin\"", "\"file\":\"images/sm_91.bin\"", "sm_91.bin"},
      {"\"capability\":90", "\"capability\":75", "capability is 75"},
      {"\"ptx\":false", "\"ptx\":0", "true or false"},
      {"\"noise\":[[0,", "\"noises\":[[0,", "lists.noise is missing"},
      {"\"exact_1\"", "\"exact_3\"", "come together"},
      {"\"precision\":\"bf16\"", "\"precision\":\"int4\"", "allowed are bf16, fp16 and fp32"},
      {"\"map_floats\":64", "\"map_floats\":0", "maps are used"},
  };
  for (const auto& c : cases) EXPECT_ERROR(Changed(c.from, c.to).open(), kModelFormat, c.says);
  EXPECT_ERROR(Changed("\"format_version\":1", "\"format_version\":2").open(), kUnsupportedVersion,
               "upgrade gaitcrafter-rt");
}

TEST(KernelPack, DamagedFilesAreNoticed) {
  for (const char* name : {"kernels.json", "weights.bin", "images/sm_90.bin"}) {
    const testing::TempFolder folder;
    testing::write_fake_pack(folder.path());
    std::string bytes = testing::read_file(folder.path() / name);
    bytes[bytes.size() - 2] = static_cast<char>(bytes[bytes.size() - 2] ^ 1);
    testing::write_file(folder.path() / name, bytes);
    EXPECT_THROW(open_kernel_pack(folder.path().string()), Error) << name;
  }
  const testing::TempFolder empty;
  EXPECT_FALSE(is_kernel_pack(empty.path().string()));
  EXPECT_ERROR(open_kernel_pack(empty.path().string()), kModelFormat, "kernels.json");
}

TEST(KernelPack, AChipGetsItsOwnCodeElseTheNearest) {
  KernelPack pack;
  pack.folder = "pack";
  for (const auto& [capability, ptx] : {std::pair{80, true}, {80, false}, {86, false}, {90, false}})
    pack.images.push_back({capability, ptx, nullptr});
  EXPECT_EQ(pack.image_for(8, 0), 1);
  EXPECT_EQ(pack.image_for(8, 6), 2);
  EXPECT_EQ(pack.image_for(8, 9), 2);  // cubins of one major generation run on its later chips
  EXPECT_EQ(pack.image_for(9, 0), 3);
  EXPECT_EQ(pack.image_for(10, 0), 0);  // sm_90a code runs on no other chip; PTX is compiled for it
  EXPECT_EQ(pack.image_for(10, 3), 0);
  EXPECT_ERROR(pack.image_for(7, 5), kCapability, "older than sm_80");
  pack.images.erase(pack.images.begin());
  EXPECT_ERROR(pack.image_for(12, 0), kCapability, "--arch 120,ptx");
}

}  // namespace
}  // namespace gaitcrafter
