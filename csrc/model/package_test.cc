#include "model/package.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>

#include "testing/packages.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

namespace fs = std::filesystem;
using testing::read_file;
using testing::tiny_config;
using testing::write_file;

class Package : public ::testing::Test {
 protected:
  Package() {
    const ModelConfig config = parse_config(tiny_config(), "tiny");
    testing::write_package(model_, tiny_config(), testing::safetensors(testing::tensors_of(config)));
  }

  std::shared_ptr<const ModelPackage> open() { return ModelPackage::open(model_.string()); }

  testing::TempFolder folder_;
  const fs::path model_ = folder_.path() / "model";
};

TEST_F(Package, Opens) {
  const auto package = open();
  EXPECT_EQ(package->config().name, "tiny");
  EXPECT_EQ(package->sha256().size(), 64u);
  EXPECT_EQ(package->tensor("final_conv.weight").shape, (std::vector<int64_t>{1, 8, 1, 1}));
  EXPECT_EQ(package->tensor("input_maps.view.embedding").size(), 3 * 4);
  EXPECT_TRUE(package->has("downs.0.temporal_conv.conv.bias"));
  EXPECT_FALSE(package->has("downs.1.temporal_conv.conv.bias"));
  EXPECT_ERROR(package->tensor("nope"), kModelFormat, "nope");
}

TEST_F(Package, NeedsItsThreeFiles) {
  for (const char* name : {"config.json", "model.safetensors", "checksums.json"}) {
    const std::string bytes = read_file(model_ / name);
    fs::remove(model_ / name);
    EXPECT_ERROR(open(), kModelFormat, std::string("no ") + name + " there");
    write_file(model_ / name, bytes);
  }
  EXPECT_NO_THROW(open());
}

TEST_F(Package, SaysWhatAFileIsThatShouldBeAFolder) {
  const auto at = [&](const char* name, const std::string& bytes) {
    write_file(folder_.path() / name, bytes);
    return (folder_.path() / name).string();
  };
  EXPECT_ERROR(ModelPackage::open((model_ / "model.safetensors").string()), kModelFormat, "safetensors file by itself");
  EXPECT_ERROR(ModelPackage::open(at("m.pt", "PK\x03\x04...")), kModelFormat,
               "a PyTorch pickle; run `gaitcrafter-rt convert`");
  EXPECT_ERROR(ModelPackage::open(at("m.pkl", "\x80\x04\x95....")), kModelFormat,
               "a PyTorch pickle; run `gaitcrafter-rt convert`");
  EXPECT_ERROR(ModelPackage::open(at("m.txt", "hello")), kModelFormat, "a model package is a folder");
  EXPECT_ERROR(ModelPackage::open(at("empty", "")), kModelFormat, "a model package is a folder");
  EXPECT_ERROR(ModelPackage::open("/no/such/place"), kModelFormat, "no such model folder");
  EXPECT_ERROR(ModelPackage::open(""), kModelFormat, "no such model folder");
}

TEST_F(Package, NoticesChangedFiles) {
  std::string weights = read_file(model_ / "model.safetensors");
  weights.back() ^= 1;
  write_file(model_ / "model.safetensors", weights);
  EXPECT_ERROR(open(), kModelFormat, "model.safetensors: SHA-256 is");
  write_file(model_ / "config.json", tiny_config() + "\n");
  EXPECT_ERROR(open(), kModelFormat, "config.json: SHA-256 is");
}

TEST_F(Package, ChecksTheChecksumFile) {
  const auto with = [&](const std::string& text) {
    write_file(model_ / "checksums.json", text);
    return open();
  };
  EXPECT_ERROR(with("nonsense"), kModelFormat, "not JSON");
  EXPECT_ERROR(with("{}"), kModelFormat, "format_version must be 1");
  EXPECT_ERROR(with(R"({"format_version": 2})"), kUnsupportedVersion, "newer than 1");
  EXPECT_ERROR(with(R"({"format_version": 1})"), kModelFormat, "no sha256 there");
  EXPECT_ERROR(with(R"({"format_version": 1, "sha256": {"config.json": "00"}})"), kModelFormat, "64 to 64 characters");
  EXPECT_ERROR(with(R"({"format_version": 1, "sha256": {"../config.json": "00"}})"), kModelFormat, "is missing");
  EXPECT_ERROR(with(std::string(70000, ' ')), kModelFormat, "at most");
}

TEST_F(Package, RefusesAPickleUnderTheRightName) {
  write_file(model_ / "model.safetensors", "PK\x03\x04 archive/data.pkl");
  testing::write_checksums(model_);
  EXPECT_ERROR(open(), kModelFormat, "a PyTorch pickle; run `gaitcrafter-rt convert`");
}

TEST_F(Package, RefusesWhatIsNoRegularFile) {
  fs::remove(model_ / "config.json");
  ASSERT_EQ(::mkfifo((model_ / "config.json").c_str(), 0600), 0);
  EXPECT_ERROR(open(), kModelFormat, "not a regular file");
}

TEST_F(Package, RefusesAModelThatIsTooLargeBeforeReadingIt) {
  write_file(model_ / "config.json",
             R"({"format": "gaitcrafter-model", "unet": {"dim": 512, "dim_mults": [8, 8, 8, 8]}})");
  EXPECT_ERROR(open(), kModelFormat, "8 GiB");
}

TEST(Ranges, AreCheckedWhenAPackageIsOpened) {
  const std::string config = tiny_config(
      R"(, "format_version": 2, "quantisation": {"layers": ["ups.1.blocks.0.conv1", "mid_block1.conv2"], "clips": 3})");
  const auto tensors = testing::tensors_of(parse_config(config, "t"));
  const testing::TempFolder folder;
  const std::string model = (folder.path() / "m").string();
  const auto with = [&](const std::string& name, float value) {
    auto changed = tensors;
    for (auto& t : changed) {
      if (t.name == name) std::memcpy(t.data.data() + sizeof value, &value, sizeof value);
    }
    testing::write_package(model, config, testing::safetensors(changed));
    return ModelPackage::open(model);
  };
  const auto package = with("", 0);
  EXPECT_EQ(package->config().quantisation.layers,
            (std::vector<std::string>{"ups.1.blocks.0.conv1", "mid_block1.conv2"}));
  EXPECT_EQ(package->config().quantisation.clips, 3);
  // The way up reads a concatenation: twice the level's width.
  EXPECT_EQ(package->tensor("ups.1.blocks.0.conv1.input_low").shape, (std::vector<int64_t>{16}));
  EXPECT_EQ(package->tensor("mid_block1.conv2.input_high").shape, (std::vector<int64_t>{16}));
  EXPECT_FALSE(package->has("mid_block1.conv1.input_low"));

  const char* why = "mid_block1.conv2: the range of input channel 1 is";
  EXPECT_ERROR(with("mid_block1.conv2.input_low", 0.01f), kModelFormat, why);
  EXPECT_ERROR(with("mid_block1.conv2.input_high", -0.01f), kModelFormat, why);
  EXPECT_ERROR(with("mid_block1.conv2.input_high", INFINITY), kModelFormat, "not finite");
  EXPECT_NO_THROW(with("mid_block1.conv2.input_low", 0.0f));
  auto empty = tensors;
  for (auto& t : empty) {
    if (t.name.starts_with("mid_block1.conv2.input_")) t.data.assign(t.data.size(), '\0');
  }
  testing::write_package(model, config, testing::safetensors(empty));
  EXPECT_ERROR(ModelPackage::open(model), kModelFormat, "must contain 0 and not be empty");
  testing::write_package(model, tiny_config(), testing::safetensors(tensors));
  EXPECT_ERROR(ModelPackage::open(model), kModelFormat, "input_");
}

TEST(Fixtures, Open) {
  for (const char* name : {"tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps"}) {
    EXPECT_NO_THROW(ModelPackage::open(testing::fixture(name))) << name;
  }
}

}  // namespace
}  // namespace gaitcrafter
