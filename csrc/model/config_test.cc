#include "model/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "model/tensors.h"
#include "testing/packages.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

using testing::read_file;
using testing::tiny_config;

// The corpus that config.py judges too (tests/model/test_config_alike.py): folder name = verdict.
Status judge(const std::filesystem::path& file) {
  try {
    parse_config(read_file(file), file.filename().string());
    return Status::kOk;
  } catch (const Error& e) {
    return e.status();
  }
}

TEST(Config, Corpus) {
  const std::pair<const char*, Status> folders[] = {
      {"good", Status::kOk}, {"bad", Status::kModelFormat}, {"newer", Status::kUnsupportedVersion}};
  for (const auto& [folder, verdict] : folders) {
    int files = 0;
    const std::string corpus = GAITCRAFTER_SOURCE_DIR "/tests/model/corpus/";
    for (const auto& entry : std::filesystem::directory_iterator(corpus + folder)) {
      EXPECT_EQ(static_cast<int>(judge(entry.path())), static_cast<int>(verdict)) << entry.path();
      ++files;
    }
    EXPECT_GT(files, 2) << folder;
  }
}

TEST(Config, KeepsWhatTheFileSays) {
  const ModelConfig c =
      parse_config(tiny_config(R"(, "diffusion": {"prediction": "v", "schedule": "linear", "timesteps": 77})"), "t");
  EXPECT_EQ(c.name, "tiny");
  EXPECT_EQ(c.clip.frames, 3);
  EXPECT_EQ(c.unet.dim_mults, (std::vector<int>{1, 2}));
  EXPECT_EQ(c.unet.temporal_conv, (std::vector<bool>{true, false}));
  EXPECT_TRUE(c.unet.mid_spatial_attention);
  EXPECT_EQ(c.conditioning.wiring[1], Wiring::kBlockTable);
  EXPECT_EQ(c.conditioning.wiring[2], Wiring::kInputMap);
  EXPECT_EQ(c.labels[1], (std::vector<std::string>{"001", "002"}));
  EXPECT_EQ(c.diffusion.prediction, Prediction::kV);
  EXPECT_EQ(c.diffusion.schedule, Schedule::kLinear);
  EXPECT_EQ(c.diffusion.timesteps, 77);
  EXPECT_EQ(c.sampler.steps, 4);
  EXPECT_EQ(c.identities, "unknown");
}

TEST(Config, MessagesNameFileFieldAndValue) {
  EXPECT_ERROR(parse_config(tiny_config(R"(, "sampler": {"eta": 2})"), "f.json"), kModelFormat,
               "f.json: sampler.eta must be a number from 0 to 1 (got 2)");
  EXPECT_ERROR(parse_config(tiny_config(R"(, "wings": 2})"), "f.json"), kModelFormat, "f.json");
  EXPECT_ERROR(parse_config(tiny_config(R"(, "wings": 2)"), "f.json"), kModelFormat, "unknown field \"wings\"");
}

TEST(Config, HostileSizesCostNothing) {
  const std::string head = R"({"format": "gaitcrafter-model", "x": )";
  EXPECT_ERROR(parse_config(head + std::string(5'000'000, '['), "f"), kModelFormat, "nested deeper");
  std::string many = head + "[";
  for (int i = 0; i < 2'000'000; ++i) many += "1,";
  EXPECT_ERROR(parse_config(many + "1]}", "f"), kModelFormat, "values");
  EXPECT_ERROR(parse_config(std::string((16 << 20) + 1, ' '), "f"), kModelFormat, "at most 16 MiB");
  // The library quotes what it read; a long token must not make a long message.
  try {
    parse_config(head + "\"" + std::string(1'000'000, 'a'), "f");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_LT(std::string(e.what()).size(), 400u);
  }
}

TEST(ExpectedTensors, NamesAreUnique) {
  auto specs = expected_tensors(parse_config(tiny_config(), "t"));
  std::sort(specs.begin(), specs.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (size_t i = 1; i < specs.size(); ++i) EXPECT_NE(specs[i - 1].name, specs[i].name);
}

TEST(ExpectedTensors, SizesAreBounded) {
  const ModelConfig c =
      parse_config(R"({"format": "gaitcrafter-model", "unet": {"dim": 512, "dim_mults": [8, 8, 8, 8]}})", "big");
  EXPECT_ERROR(total_fp32_bytes(expected_tensors(c), "big"), kModelFormat, "8 GiB");
  EXPECT_EQ(element_count(std::vector<int64_t>{1 << 20, 1 << 20, 1 << 20, 1 << 20}), std::nullopt);
  EXPECT_EQ(element_count(std::vector<int64_t>{-1}), std::nullopt);
  EXPECT_EQ(element_count(std::vector<int64_t>{3, 0, 5}), 0u);
  EXPECT_EQ(element_count(std::vector<int64_t>{}), 1u);
}

}  // namespace
}  // namespace gaitcrafter
