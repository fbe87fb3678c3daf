// A cache of packed weights of a test's own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "cache/packed_cache.h"
#include "testing/packages.h"
#include "unet/packed_plan.h"

namespace gaitcrafter {

namespace fs = std::filesystem;
using testing::read_file;
using testing::write_file;

// A cache of the test's own.
class Cache : public ::testing::Test {
 protected:
  Cache() { ::setenv("GAITCRAFTER_CACHE", root_.c_str(), 1); }
  ~Cache() override { ::setenv("GAITCRAFTER_CACHE", "off", 1); }

  std::vector<fs::path> files(const std::string& suffix) const {
    std::vector<fs::path> out;
    if (!fs::exists(packed_)) return out;
    for (const auto& e : fs::directory_iterator(packed_))
      if (e.path().filename().string().ends_with(suffix)) out.push_back(e.path());
    return out;
  }
  long leftovers() const {
    return std::count_if(fs::directory_iterator(packed_), fs::directory_iterator(),
                         [](const auto& e) { return e.path().filename().string().starts_with(".new-"); });
  }
  fs::path only_file() const {
    const auto all = files(".packed");
    EXPECT_EQ(all.size(), 1u);
    return all.at(0);
  }
  std::string make_model(const std::string& fields = "") {
    const std::string config = testing::tiny_config(fields), path = (folder_.path() / "model").string();
    testing::write_package(path, config, testing::safetensors(testing::tensors_of(parse_config(config, "tiny"))));
    return path;
  }
  static WeightsFrom open(const std::string& model, Precision precision = Precision::kFp32, Isa isa = Isa::kPortable) {
    WeightsSource source(ModelFolder::open(model));
    return UNet::create(source, isa, precision)->weights_from();
  }

  testing::TempFolder folder_;
  const fs::path root_ = folder_.path() / "cache", packed_ = root_ / "packed";
};

}  // namespace gaitcrafter
