// Table validation, one step against arithmetic by hand, dynamic thresholds, packing; sampler_loop_test.cc has the
// loop.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "noise/normal.h"
#include "sampler/clip_sampler.h"
#include "sampler/loop.h"
#include "sampler/pack.h"
#include "sampler/step.h"
#include "sampler/table.h"

namespace gaitcrafter {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// The message of the kInvalidRequest error that compiling throws; empty if it does not throw.
std::string refusal(const SamplerSettings& settings, const Diffusion& diffusion = {}) {
  try {
    compile_table(settings, diffusion);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidRequest);
    return error.what();
  }
  return "";
}

void expect_names(const std::string& message, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(message.find(part), std::string::npos) << message << " lacks " << part;
}

TEST(Table, RefusesStepsOutsideTheTrainingTimesteps) {
  for (const int steps : {-5, 0, 1001}) {
    SamplerSettings settings;
    settings.steps = steps;
    expect_names(refusal(settings), {"steps is", "1 to 1000"});
  }
}

TEST(Table, RefusesEta) {
  for (const double eta : {-0.1, 1.5, std::nan("")}) {
    SamplerSettings settings;
    settings.eta = eta;
    expect_names(refusal(settings), {"eta is", "0 (deterministic) to 1"});
  }
  for (const SamplerKind kind : {SamplerKind::kDpmpp2m, SamplerKind::kDdpm}) {
    SamplerSettings settings;
    settings.kind = kind;
    settings.eta = 0.5;
    expect_names(refusal(settings), {"eta is 0.5", "set eta to 0 or use ddim"});
  }
}

TEST(Table, RefusesPercentileAndGuidance) {
  for (const double percentile : {0.0, 1.0, -1.0, std::nan("")}) {
    SamplerSettings settings;
    settings.thresholding = Thresholding::kDynamic;
    settings.dynamic_percentile = percentile;
    expect_names(refusal(settings), {"dynamic_percentile is", "between 0 and 1"});
    settings.thresholding = Thresholding::kClip;
    EXPECT_EQ(refusal(settings), "");
  }
  for (const double guidance : {-1.0, 101.0, std::nan("")}) {
    SamplerSettings settings;
    settings.guidance = guidance;
    expect_names(refusal(settings), {"guidance is", "0 to 100"});
  }
}

TEST(Table, RefusesSpacingsThatRepeatOrBeginAtZero) {
  SamplerSettings settings;
  settings.kind = SamplerKind::kDpmpp2m;
  settings.steps = 1000;
  for (const Spacing spacing : {Spacing::kLeading, Spacing::kLinspace}) {
    settings.spacing = spacing;
    expect_names(refusal(settings), {"twice", "trailing"});
  }
  settings.kind = SamplerKind::kDdim;
  settings.steps = 1;
  for (const Spacing spacing : {Spacing::kLeading, Spacing::kLinspace}) {
    settings.spacing = spacing;
    expect_names(refusal(settings), {"timestep 0", "trailing"});
  }
  settings.spacing = Spacing::kTrailing;
  EXPECT_EQ(refusal(settings), "");
}

TEST(Table, RefusesLinearSchedulesWithoutNoiseLeft) {
  Diffusion diffusion;
  diffusion.schedule = Schedule::kLinear;
  diffusion.timesteps = 20;
  expect_names(refusal({}, diffusion), {"linear", "20 timesteps"});
  diffusion.timesteps = 21;
  EXPECT_EQ(refusal({}, diffusion), "");
}

TEST(Table, EveryStepCountGivesThatManyFallingTimesteps) {
  for (const SamplerKind kind : {SamplerKind::kDdim, SamplerKind::kDpmpp2m}) {
    for (const Spacing spacing : {Spacing::kLeading, Spacing::kTrailing, Spacing::kLinspace}) {
      for (int steps = 2; steps < 1000; ++steps) {
        const std::vector<int32_t> t = spaced_timesteps(kind, spacing, steps, 1000);
        ASSERT_EQ(t.size(), static_cast<size_t>(steps));
        ASSERT_TRUE(std::is_sorted(t.rbegin(), t.rend()));
        ASSERT_GE(t.back(), 0);
        ASSERT_LT(t.front(), 1000);
      }
    }
  }
}

// The values of the base network's buffers (docs/samplers.md, "Schedules").
TEST(Table, CosineScheduleHasTheBaseNetworksValues) {
  const std::vector<double> bars = alphas_cumprod({});
  const auto near = [&](int t, double value) { EXPECT_NEAR(bars[size_t(t)] / value, 1, 5e-8) << t; };
  EXPECT_NEAR((1 - bars[0]) / 4.1284224e-05, 1, 5e-8);
  near(0, 0.99995869);
  near(250, 0.84588796);
  near(500, 0.49228516);
  near(750, 0.14317864);
  near(998, 2.4287669e-06);
  near(999, 2.4287669e-10);

  SamplerSettings settings;
  settings.kind = SamplerKind::kDdpm;
  settings.steps = 1000;
  const SamplerTable table = compile_table(settings, {});
  const ExactRow &first = table.exact[0], &middle = table.exact[499], &last = table.exact[999];
  EXPECT_EQ(middle.t, 500);
  EXPECT_NEAR(first.a_x / 64166.3, 1, 1e-6);
  EXPECT_NEAR(table.exact[1].a_x / 641.663, 1, 1e-6);
  EXPECT_NEAR(first.c_x0 / 0.0015582943, 1, 5e-8);
  EXPECT_NEAR(first.c_x / 0.0099999756, 1, 5e-8);
  EXPECT_NEAR(middle.c_x0 / 0.004367867, 1, 2e-7);
  EXPECT_NEAR(middle.c_x / 0.99535626, 1, 5e-8);
  EXPECT_NEAR(middle.c_noise * middle.c_noise / 0.0031460051, 1, 5e-8);
  EXPECT_DOUBLE_EQ(last.c_x0, 1);
  EXPECT_EQ(last.c_x, 0);
  EXPECT_EQ(last.c_noise, 0);
}

TEST(Table, DdimWithEtaOneIsDdpm) {
  SamplerSettings ddim, ddpm;
  ddim.eta = 1;
  ddpm.kind = SamplerKind::kDdpm;
  const SamplerTable a = compile_table(ddim, {}), b = compile_table(ddpm, {});
  for (size_t i = 0; i < a.exact.size(); ++i) {
    EXPECT_NEAR(a.exact[i].c_x, b.exact[i].c_x, 1e-12);
    EXPECT_NEAR(a.exact[i].c_x0, b.exact[i].c_x0, 1e-12);
    EXPECT_NEAR(a.exact[i].c_noise, b.exact[i].c_noise, 1e-12);
  }
}

TEST(Table, NeedsFollowFromTheRows) {
  SamplerSettings settings;
  EXPECT_FALSE(compile_table(settings, {}).needs_noise);
  EXPECT_EQ(compile_table(settings, {}).history, 0);
  settings.eta = 0.3;
  EXPECT_TRUE(compile_table(settings, {}).needs_noise);
  settings.eta = 0;
  settings.kind = SamplerKind::kDpmpp2m;
  EXPECT_EQ(compile_table(settings, {}).history, 1);
  settings.steps = 2;
  EXPECT_EQ(compile_table(settings, {}).history, 0);  // both rows are of first order
}

SamplerTable table_of(std::vector<SamplerRow> rows, Thresholding thresholding, int history) {
  SamplerTable table;
  table.rows = std::move(rows);
  table.thresholding = thresholding;
  table.history = history;
  return table;
}

TEST(Step, SumsInTheWrittenOrderAndRotatesTwoEarlierEstimates) {
  constexpr size_t kN = 1500;  // more than two tiles
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto draw = [&] {
    std::vector<float> values(kN);
    for (float& v : values) v = normal(random);
    return values;
  };
  SamplerRow row;
  row.a_x = 1.3f, row.a_out = -0.7f, row.c_x = 0.4f, row.c_x0 = 0.9f;
  row.c_prev1 = -0.3f, row.c_prev2 = 0.11f, row.c_raw = 0.05f, row.c_noise = 0.2f;
  const SamplerTable table = table_of({row}, Thresholding::kClip, 2);

  std::vector<float> x = draw(), p1 = draw(), p2 = draw();
  const std::vector<float> out = draw(), z = draw(), x_before = x, p1_before = p1, p2_before = p2;
  StepBuffers b;
  b.x = x.data(), b.out = out.data(), b.noise = z.data(), b.history[0] = p1.data(), b.history[1] = p2.data();
  EXPECT_EQ(sampler_step(table, 0, b, kN), 0u);
  EXPECT_EQ(b.history[0], p2.data());
  EXPECT_EQ(b.history[1], p1.data());
  for (size_t i = 0; i < kN; ++i) {
    volatile float a = row.a_x * x_before[i], c = row.a_out * out[i];
    const float raw = a + c, x0 = std::clamp(raw, -1.0f, 1.0f);
    ASSERT_EQ(p2[i], x0);
    ASSERT_EQ(p1[i], p1_before[i]);
    volatile float sum = row.c_x * x_before[i];
    for (const auto& [coefficient, term] : {std::pair{row.c_x0, x0},
                                            {row.c_prev1, p1_before[i]},
                                            {row.c_prev2, p2_before[i]},
                                            {row.c_raw, raw},
                                            {row.c_noise, z[i]}}) {
      volatile float product = coefficient * term;
      sum = sum + product;
    }
    ASSERT_EQ(x[i], sum);
  }
}

TEST(Step, LeavesOutTermsWhoseCoefficientIsZero) {
  SamplerRow row;
  row.a_out = 1, row.c_x0 = 1;
  std::vector<float> x{1, 2}, out{3, -0.5f};
  StepBuffers b;  // no noise, no history
  b.x = x.data(), b.out = out.data();
  EXPECT_EQ(sampler_step(table_of({row}, Thresholding::kNone, 0), 0, b, 2), 0u);
  EXPECT_EQ(x, (std::vector<float>{3, -0.5f}));
}

TEST(Step, CountsWhatIsNotFiniteAndKeepsIt) {
  SamplerRow row;
  row.a_out = 1, row.c_x0 = 1;
  for (const Thresholding kind : {Thresholding::kNone, Thresholding::kClip}) {
    std::vector<float> x(600, 0.0f), out(600, 0.25f);
    out[3] = kNan, out[599] = kInf, out[100] = -kInf;
    StepBuffers b;
    b.x = x.data(), b.out = out.data();
    EXPECT_EQ(sampler_step(table_of({row}, kind, 0), 0, b, 600), 3u);
    EXPECT_TRUE(std::isnan(x[3]));
    EXPECT_EQ(x[4], 0.25f);
  }
}

TEST(DynamicLimit, IsTheInterpolatedQuantileAtLeastOne) {
  std::vector<float> values(101);
  for (int i = 0; i <= 100; ++i) values[size_t(i)] = (i % 2 ? -1.0f : 1.0f) * float((i * 37) % 101);  // |v| is 0..100
  const auto limit = [&](double p) {
    std::vector<float> copy = values;
    return dynamic_limit(copy.data(), copy.size(), p);
  };
  EXPECT_FLOAT_EQ(limit(0.9), 90);
  EXPECT_FLOAT_EQ(limit(0.905), 90.5f);
  EXPECT_FLOAT_EQ(limit(0.999), 99.9f);
  EXPECT_EQ(limit(0.001), 1);
  std::vector<float> one{-7};
  EXPECT_EQ(dynamic_limit(one.data(), 1, 0.9), 7);
}

TEST(DynamicLimit, NanIsLargerThanAllElse) {
  std::vector<float> values{2, kNan, 3, -4, -kNan, 5, 6, 7, 8, 9, 10};
  EXPECT_FLOAT_EQ(dynamic_limit(values.data(), values.size(), 0.5), 7);
}

TEST(Step, DynamicThresholdClampsAndDivides) {
  SamplerRow row;
  row.a_out = 1, row.c_x0 = 1;
  SamplerTable table = table_of({row}, Thresholding::kDynamic, 0);
  table.dynamic_percentile = 0.75;
  std::vector<float> x(5), out{4, -1, 2, -8, 0}, scratch(5);  // |out| sorted 0 1 2 4 8: the quantile is 4
  StepBuffers b;
  b.x = x.data(), b.out = out.data(), b.scratch = scratch.data();
  sampler_step(table, 0, b, 5);
  EXPECT_EQ(x, (std::vector<float>{1, -0.25f, 0.5f, -1, 0}));
}

TEST(Pack, RoundTripsEveryLength) {
  std::mt19937 random(2);
  for (size_t pixels = 1; pixels < 40; ++pixels) {
    std::vector<float> x(pixels);
    for (float& v : x) v = random() % 2 ? 1.0f : -1.0f;
    std::vector<uint8_t> packed(packed_bytes(pixels) + 1, 0xAB), mask(pixels);
    EXPECT_EQ(pack_clip(x.data(), pixels, 0.5f, packed.data()), 0u);
    EXPECT_EQ(packed.back(), 0xAB);
    unpack_clip(packed.data(), pixels, mask.data());
    for (size_t i = 0; i < pixels; ++i) EXPECT_EQ(mask[i], x[i] > 0 ? 1 : 0);
    if (pixels % 8 != 0) {
      EXPECT_EQ(packed[pixels / 8] & (0xFF >> (pixels % 8)), 0);
    }
  }
}

TEST(Pack, MostSignificantBitFirstAndStrictlyAboveTheThreshold) {
  const std::vector<float> x{1, 0, 0.01f, -1, kNan, kInf, -kInf, 0.5f, 1};
  std::vector<uint8_t> packed(2);
  EXPECT_EQ(pack_clip(x.data(), x.size(), 0.5f, packed.data()), 3u);
  EXPECT_EQ(packed[0], 0b10100101);
  EXPECT_EQ(packed[1], 0b10000000);
  pack_clip(x.data(), x.size(), 0.75f, packed.data());
  EXPECT_EQ(packed[0], 0b10000100);
}

TEST(Pack, RefusesThresholds) {
  for (const float threshold : {-0.01f, 1.01f, kNan}) EXPECT_THROW(check_threshold(threshold), Error);
  EXPECT_NO_THROW(check_threshold(0));
  EXPECT_NO_THROW(check_threshold(1));
}

}  // namespace
}  // namespace gaitcrafter
