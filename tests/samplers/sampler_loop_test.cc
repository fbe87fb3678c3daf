// The loop over a sampler's rows, and a clip's own sampler.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "noise/normal.h"
#include "sampler/clip_sampler.h"
#include "sampler/loop.h"
#include "sampler/pack.h"
#include "sampler/table.h"

namespace gaitcrafter {
namespace {

// A denoiser that answers with a fixed picture as x0, so that every sampler must end there.
class FixedBackend : public Backend {
 public:
  explicit FixedBackend(std::vector<float> picture) : picture_(std::move(picture)) {}
  void prepare(const SamplerTable& table, const BatchView& batch) override {
    clips_.clear();
    memory_.resize(static_cast<size_t>(batch.clips));
    for (int i = 0; i < batch.clips; ++i) {
      memory_[size_t(i)].resize(ClipSampler::workspace_bytes(table, picture_.size()) / sizeof(float) + 16);
      const auto address = reinterpret_cast<uintptr_t>(memory_[size_t(i)].data());
      clips_.emplace_back(table, picture_.size(), reinterpret_cast<std::byte*>((address + 63) / 64 * 64));
      clips_.back().start(batch.seeds[i], batch.clip_indices[i]);
    }
  }
  void eval(int) override { ++evals; }
  void step(int row) override {
    for (ClipSampler& clip : clips_) non_finite_ += clip.step(row, picture_.data());
  }
  size_t finish(float threshold, uint8_t* packed) override {
    for (size_t i = 0; i < clips_.size(); ++i) {
      non_finite_ += pack_clip(clips_[i].x(), picture_.size(), threshold, packed + i * packed_bytes(picture_.size()));
    }
    return non_finite_;
  }
  int evals = 0;

 private:
  std::vector<float> picture_;
  std::vector<std::vector<float>> memory_;
  std::vector<ClipSampler> clips_;
  size_t non_finite_ = 0;
};

TEST(Loop, EverySamplerEndsAtThePictureThatTheModelIsSureOf) {
  std::vector<float> picture(100);
  for (size_t i = 0; i < picture.size(); ++i) picture[i] = i % 3 ? -1.0f : 1.0f;
  std::vector<uint8_t> want(packed_bytes(picture.size()));
  pack_clip(picture.data(), picture.size(), 0.5f, want.data());
  Diffusion diffusion;
  diffusion.prediction = Prediction::kX0;
  const std::vector<uint64_t> seeds{1, 2}, indices{10, 11};
  const BatchView batch{2, seeds.data(), indices.data(), nullptr};
  for (const SamplerKind kind : {SamplerKind::kDdpm, SamplerKind::kDdim, SamplerKind::kDpmpp2m}) {
    for (const Thresholding thresholding : {Thresholding::kNone, Thresholding::kClip, Thresholding::kDynamic}) {
      SamplerSettings settings;
      settings.kind = kind;
      settings.thresholding = thresholding;
      settings.steps = 7;
      FixedBackend backend(picture);
      std::vector<uint8_t> packed(2 * want.size());
      EXPECT_EQ(run_sampler(backend, compile_table(settings, diffusion), batch, 0.5f, packed.data()), 0u);
      EXPECT_EQ(backend.evals, 7);
      EXPECT_TRUE(std::equal(want.begin(), want.end(), packed.begin()));
      EXPECT_TRUE(std::equal(want.begin(), want.end(), packed.begin() + int(want.size())));
    }
  }
}

TEST(Loop, StopsWhenToldTo) {
  FixedBackend backend(std::vector<float>(8, 1.0f));
  const uint64_t zero = 0;
  const BatchView batch{1, &zero, &zero, nullptr};
  uint8_t packed = 0xAB;
  std::vector<int> seen;
  try {
    run_sampler(backend, compile_table({}, {}), batch, 0.5f, &packed, [&](int done, int total) {
      EXPECT_EQ(total, 20);
      seen.push_back(done);
      return done < 3;
    });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kCancelled);
  }
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(packed, 0xAB);
}

TEST(Loop, RefusesThresholdsBeforeAnythingRuns) {
  FixedBackend backend(std::vector<float>(8, 1.0f));
  EXPECT_THROW(run_sampler(backend, compile_table({}, {}), {}, 1.5f, nullptr), Error);
  EXPECT_EQ(backend.evals, 0);
}

TEST(ClipSampler, DrawsTheStreamsOfItsTimesteps) {
  SamplerSettings settings;
  settings.eta = 1;
  settings.steps = 4;
  settings.thresholding = Thresholding::kNone;
  const SamplerTable table = compile_table(settings, {});
  constexpr size_t kN = 64;
  alignas(64) std::byte memory[4 * kN * sizeof(float)];
  ASSERT_LE(ClipSampler::workspace_bytes(table, kN), sizeof(memory));
  ClipSampler sampler(table, kN, memory);
  sampler.start(3, 4);
  std::vector<float> x(kN), z(kN), out(kN, 0.0f);
  fill_normal(3, 4, 0, x.data(), kN);
  EXPECT_TRUE(std::equal(x.begin(), x.end(), sampler.x()));
  sampler.step(0, out.data());
  const SamplerRow& row = table.rows[0];
  fill_normal(3, 4, 1 + 999, z.data(), kN);
  EXPECT_EQ(row.stream, 1000u);
  for (size_t i = 0; i < kN; ++i) {
    const float raw = row.a_x * x[i];
    EXPECT_NEAR(sampler.x()[i], row.c_x * x[i] + row.c_x0 * raw + row.c_noise * z[i], 1e-5 * std::fabs(row.c_x0 * raw));
  }
}

}  // namespace
}  // namespace gaitcrafter
