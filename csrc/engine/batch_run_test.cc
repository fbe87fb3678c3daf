#include "engine/batch_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "sampler/pack.h"

namespace gaitcrafter {
namespace {

constexpr size_t kFloats = 16;
constexpr int kBatch = 3;

// Writes the clip index into every value of x_0, the seed's low byte plus the condition's label into the bits.
class Recorder final : public BatchBackend {
 public:
  void prepare(const SamplerTable& /*table*/, const BatchView& batch) override {
    indices.emplace_back(batch.clip_indices, batch.clip_indices + batch.clips);
    first_noise = batch.initial_noise == nullptr ? 0 : batch.initial_noise[kFloats * (kBatch - 1)];
    current_ = batch;
  }
  void eval(int /*row*/) override { ++evals; }
  void step(int /*row*/) override {}
  size_t finish(float /*threshold*/, uint8_t* packed) override {
    for (int k = 0; k < current_.clips; ++k) {
      const auto labels = current_.conditions[k].axes[1];
      std::fill_n(packed + static_cast<size_t>(k) * packed_bytes(kFloats), packed_bytes(kFloats),
                  static_cast<uint8_t>(current_.seeds[k] + (labels.empty() ? 0u : uint64_t(labels[0].index))));
    }
    return bad;
  }
  void copy_x0(float* out) override {
    for (int k = 0; k < current_.clips; ++k)
      std::fill_n(out + static_cast<size_t>(k) * kFloats, kFloats, static_cast<float>(current_.clip_indices[k]));
  }

  std::vector<std::vector<uint64_t>> indices;
  float first_noise = 0;
  int evals = 0;
  size_t bad = 0;

 private:
  BatchView current_;
};

class BatchRun : public ::testing::Test {
 protected:
  void SetUp() override {
    settings.steps = 2;
    table = compile_table(settings, {});
    request.seed = 40;
    request.start = 100;
    request.count = 5;
    for (int32_t k = 0; k < 5; ++k) labels[static_cast<size_t>(k)] = {k, 1.0f};
    for (size_t k = 0; k < 5; ++k) conditions[k].axes[1] = {&labels[k], 1};
    output = {packed, x0};
  }
  void run() { run_batches(request, output, conditions, table, backend, kBatch, kFloats); }

  SamplerSettings settings;
  SamplerTable table;
  GenerateRequest request;
  std::array<LabelWeight, 5> labels;
  std::array<ClipConditions, 5> conditions;
  std::vector<uint8_t> packed = std::vector<uint8_t>(5 * packed_bytes(kFloats));
  std::vector<float> x0 = std::vector<float>(5 * kFloats);
  GenerateOutput output;
  Recorder backend;
};

TEST_F(BatchRun, FillsEveryBatchAndKeepsTheClipsOfTheRequest) {
  std::vector<float> noise(5 * kFloats);
  for (size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<float>(i / kFloats);
  request.initial_noise = noise.data();
  run();
  EXPECT_EQ(backend.indices, (std::vector<std::vector<uint64_t>>{{100, 101, 102}, {103, 104, 104}}));
  EXPECT_EQ(backend.first_noise, 4);
  EXPECT_EQ(backend.evals, 4);
  for (size_t k = 0; k < 5; ++k) {
    EXPECT_EQ(packed[k * packed_bytes(kFloats)], 40 + k);
    EXPECT_EQ(x0[k * kFloats], 100 + static_cast<float>(k));
  }
}

TEST_F(BatchRun, TakesGivenIndices) {
  const std::vector<uint64_t> given{9, 7, 5, 3, 1};
  request.clip_indices = given.data();
  run();
  EXPECT_EQ(backend.indices.front(), (std::vector<uint64_t>{9, 7, 5}));
  EXPECT_EQ(x0[4 * kFloats], 1);
}

TEST_F(BatchRun, ReportsFromNothingToAllAndStopsWhenToldTo) {
  std::vector<Progress> seen;
  request.keep_going = [&](const Progress& p) {
    seen.push_back(p);
    return true;
  };
  run();
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front().steps_done, 0u);
  EXPECT_EQ(seen.back().steps_done, 10u);
  EXPECT_EQ(seen.back().clips_done, 5u);
  request.keep_going = [](const Progress&) { return false; };
  try {
    run();
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.status(), Status::kCancelled);
  }
}

TEST_F(BatchRun, RefusesValuesThatAreNotFinite) {
  backend.bad = 2;
  try {
    run();
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.status(), Status::kInternal);
    EXPECT_NE(std::string(e.what()).find("clips 100 to 102"), std::string::npos);
  }
}

}  // namespace
}  // namespace gaitcrafter
