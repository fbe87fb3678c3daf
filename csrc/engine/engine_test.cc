// What an engine makes of a request: clips, lanes, conditions, refusals; engine_calls_test.cc has the rest.
#include "engine/engine_test.h"

#include <cmath>

#include "noise/normal.h"
#include "sampler/pack.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

// Conditions of three kinds in turn: a label, a blend, null.
struct Mixed {
  explicit Mixed(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      if (i % 3 != 2) add(static_cast<int32_t>(i / 3 % 3), 1.0f);
      if (i % 3 == 1) add(2, 0.5f);
      offsets.push_back(labels.size());
    }
  }
  void add(int32_t label, float weight) {
    labels.push_back(label);
    weights.push_back(weight);
  }
  ConditionRequest request() const {
    ConditionRequest r;
    r.axes[static_cast<int>(Axis::kIdentity)] = {offsets.data(), labels.data(), weights.data()};
    return r;
  }
  std::vector<uint64_t> offsets{0};
  std::vector<int32_t> labels;
  std::vector<float> weights;
};

TEST_F(EngineTest, AClipIsTheSameBitsInAnyCompany) {
  constexpr size_t kClips = 16;
  Engine one(path_, threads(1)), four(path_, threads(4));
  const Mixed all(kClips);
  GenerateRequest r = request_of(one, kClips);
  r.sampler.eta = 1.0;  // step noise too
  r.sampler.guidance = 2.0;
  r.conditions = all.request();
  const auto want = generate(one, r);
  EXPECT_EQ(generate(four, r), want);

  const size_t bytes = one.packed_bytes();
  EXPECT_FALSE(std::equal(want.begin(), want.begin() + static_cast<ptrdiff_t>(bytes),
                          want.begin() + static_cast<ptrdiff_t>(bytes)));
  for (const size_t batch : {1, 2, 3, 7}) {
    std::vector<uint8_t> got;
    for (size_t start = 0; start < kClips; start += batch) {
      const size_t n = std::min(batch, kClips - start);
      ConditionRequest part = all.request();
      std::vector<uint64_t> offsets(all.offsets.begin() + static_cast<ptrdiff_t>(start),
                                    all.offsets.begin() + static_cast<ptrdiff_t>(start + n + 1));
      const uint64_t first = offsets[0];
      for (uint64_t& o : offsets) o -= first;
      part.axes[1] = {offsets.data(), all.labels.data() + first, all.weights.data() + first};
      GenerateRequest piece = r;
      piece.start = start;
      piece.count = n;
      piece.conditions = part;
      const auto bits = generate(batch == 2 ? four : one, piece);
      got.insert(got.end(), bits.begin(), bits.end());
    }
    EXPECT_EQ(got, want) << "batch " << batch;
  }
}

TEST_F(EngineTest, ClipIndicesAndSeedsChooseTheNoise) {
  Engine engine(path_, threads(2));
  GenerateRequest r = request_of(engine, 3);
  const auto plain = generate(engine, r);
  const uint64_t reversed[] = {2, 1, 0};
  r.clip_indices = reversed;
  const auto turned = generate(engine, r);
  const auto bytes = static_cast<ptrdiff_t>(engine.packed_bytes());
  for (ptrdiff_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(
        std::equal(plain.begin() + i * bytes, plain.begin() + (i + 1) * bytes, turned.begin() + (2 - i) * bytes));
  }
  r.seed = 6;
  EXPECT_NE(generate(engine, r), turned);
}

TEST_F(EngineTest, InitialNoiseTakesThePlaceOfTheDrawnOne) {
  Engine engine(path_, threads(2));
  GenerateRequest r = request_of(engine, 2);
  std::vector<float> noise(2 * engine.clip_floats()), x0;
  for (size_t i = 0; i < 2; ++i)
    fill_normal(r.seed, i, kInitialNoiseStream, noise.data() + i * engine.clip_floats(), engine.clip_floats());
  const auto want = generate(engine, r, &x0);
  r.seed = 99;
  r.initial_noise = noise.data();
  EXPECT_EQ(generate(engine, r), want);
  std::vector<uint8_t> packed(engine.packed_bytes());
  pack_clip(x0.data() + engine.clip_floats(), engine.clip_floats(), 0.5f, packed.data());
  EXPECT_TRUE(std::equal(packed.begin(), packed.end(), want.begin() + static_cast<ptrdiff_t>(packed.size())));
  noise[3] = NAN;
  EXPECT_ERROR(generate(engine, r), kInvalidRequest, "initial_noise");
}

// The engine's steps written out by hand with the network's raw call.
TEST_F(EngineTest, GuidedStepsAreTheTablesArithmetic) {
  Engine engine(path_, threads(1));
  const Mixed label(1);
  GenerateRequest r = request_of(engine, 1);
  r.sampler.guidance = 3.0;
  r.conditions = label.request();
  std::vector<float> x0;
  generate(engine, r, &x0);

  const size_t n = engine.clip_floats();
  std::vector<float> x(n), cond(n), null(n);
  fill_normal(r.seed, 0, kInitialNoiseStream, x.data(), n);
  for (const SamplerRow& row : compile_table(r.sampler, engine.config().diffusion).rows) {
    engine.forward(1, x.data(), &row.t, r.conditions, cond.data());
    engine.forward(1, x.data(), &row.t, {}, null.data());
    for (size_t i = 0; i < n; ++i) {
      const float out = null[i] + (cond[i] - null[i]) * 3.0f;
      const float raw = row.a_x * x[i] + row.a_out * out;
      const float clean = std::fmin(1.0f, std::fmax(-1.0f, raw));
      x[i] = row.c_x * x[i] + row.c_x0 * clean;
    }
  }
  for (size_t i = 0; i < n; ++i) ASSERT_NEAR(x0[i], x[i], 1e-6f) << i;
}

TEST_F(EngineTest, GuidanceOneAndZeroAreTheLanesThemselves) {
  Engine engine(path_, threads(1));
  const Mixed label(1);
  GenerateRequest r = request_of(engine, 1);
  const auto null = generate(engine, r);
  r.conditions = label.request();
  const auto conditioned = generate(engine, r);
  EXPECT_NE(conditioned, null);
  r.sampler.guidance = 0.0;
  EXPECT_EQ(generate(engine, r), null);
  // A lane that nulls none of the given axes changes nothing, whatever the scale.
  r.sampler.guidance = 4.0;
  r.null_axes = {true, false, true, true};
  EXPECT_EQ(generate(engine, r), conditioned);
}

TEST_F(EngineTest, AnEpsModelsAmplifiedCallsAreFp32) {
  if (!precision_supported(Precision::kBf16, choose_isa())) GTEST_SKIP() << "this processor has no avx512_bf16";
  EngineOptions bf16 = threads(1), fp32 = threads(1);
  bf16.precision = "bf16";
  fp32.precision = "fp32";
  Engine ours(testing::fixture("tiny-paper"), bf16), exact(testing::fixture("tiny-paper"), fp32);
  GenerateRequest r = request_of(ours, 1);
  r.sampler.guidance = 2.0;
  r.sampler.spacing = Spacing::kTrailing;
  r.sampler.steps = 1;  // t = 999, where eps is multiplied by 64,166
  std::vector<float> x0, want;
  generate(ours, r, &x0);
  generate(exact, r, &want);
  EXPECT_EQ(x0, want);
  r.sampler.steps = 2;  // and t = 499, where it is not
  generate(ours, r, &x0);
  generate(exact, r, &want);
  EXPECT_NE(x0, want);
}

TEST_F(EngineTest, LabelsOfACondDimModelAreColumns) {
  Engine engine(testing::fixture("tiny-paper"), threads(1));
  const Mixed label(2);
  GenerateRequest r = request_of(engine, 2);
  r.conditions = label.request();
  const auto by_label = generate(engine, r);
  std::vector<float> vectors(2 * 8, 0.0f);
  vectors[0] = 1.0f;                         // clip 0: identity 0
  vectors[8] = 1.0f, vectors[8 + 2] = 0.5f;  // clip 1: identity 0 and half of identity 2
  r.conditions = {};
  r.conditions.cond = vectors.data();
  EXPECT_EQ(generate(engine, r), by_label);
  const uint8_t given[] = {0, 1};
  r.conditions.cond_given = given;
  const auto first_is_null = generate(engine, r);
  EXPECT_NE(first_is_null, by_label);
  r.conditions = {};
  r.count = 1;
  EXPECT_EQ(generate(engine, r),
            (std::vector<uint8_t>(first_is_null.begin(),
                                  first_is_null.begin() + static_cast<ptrdiff_t>(engine.packed_bytes()))));
  r.conditions.cond = vectors.data();
  r.sampler.guidance = 2.0;
  r.null_axes = {true, false, true, true};
  EXPECT_ERROR(generate(engine, r), kInvalidRequest, "cannot be split");
}

TEST_F(EngineTest, RefusesBadRequestsBeforeRunning) {
  Engine engine(path_, threads(1));
  const GenerateRequest good = request_of(engine, 1);
  const auto with = [&](auto change) {
    GenerateRequest r = good;
    change(r);
    std::vector<uint8_t> packed(engine.packed_bytes(), 77);
    try {
      engine.generate(r, {packed, {}});
    } catch (...) {
      EXPECT_EQ(packed, std::vector<uint8_t>(engine.packed_bytes(), 77));
      throw;
    }
  };
  EXPECT_ERROR(with([](auto& r) { r.count = 0; }), kInvalidRequest, "count is 0");
  EXPECT_ERROR(with([](auto& r) { r.count = UINT64_MAX; }), kInvalidRequest, "count is 18446744073709551615");
  EXPECT_ERROR(with([](auto& r) { r.start = UINT64_MAX, r.count = 2; }), kInvalidRequest, "largest clip index");
  EXPECT_ERROR(with([](auto& r) { r.count = 2; }), kInvalidRequest, "packed buffer has");
  EXPECT_ERROR(with([](auto& r) { r.threshold = 0; }), kInvalidRequest, "threshold");
  EXPECT_ERROR(with([](auto& r) { r.threshold = 1; }), kInvalidRequest, "threshold");
  EXPECT_ERROR(with([](auto& r) { r.threshold = NAN; }), kInvalidRequest, "threshold");
  EXPECT_ERROR(with([](auto& r) { r.sampler.steps = 0; }), kInvalidRequest, "steps is 0");
  EXPECT_ERROR(with([](auto& r) { r.sampler.steps = 1001; }), kInvalidRequest, "steps is 1001");
  EXPECT_ERROR(with([](auto& r) { r.sampler.eta = 1.5; }), kInvalidRequest, "eta");
  EXPECT_ERROR(with([](auto& r) { r.sampler.guidance = -1; }), kInvalidRequest, "guidance");
  EXPECT_ERROR(with([](auto& r) { r.sampler.guidance = NAN; }), kInvalidRequest, "guidance");
  std::vector<uint8_t> packed(engine.packed_bytes());
  std::vector<float> x0(3);
  EXPECT_ERROR(engine.generate(good, {packed, x0}), kInvalidRequest, "x0 buffer has 3 floats");
}

TEST_F(EngineTest, RefusesBadConditions) {
  Engine engine(path_, threads(1));
  const auto with = [&](std::vector<uint64_t> offsets, std::vector<int32_t> labels, std::vector<float> weights,
                        int axis = 1) {
    GenerateRequest r = request_of(engine, 1);
    r.conditions.axes[static_cast<size_t>(axis)] = {offsets.data(), labels.data(), weights.data()};
    generate(engine, r);
  };
  EXPECT_ERROR(with({0, 1}, {3}, {1}), kInvalidRequest,
               "clip 0: identity index 3 is outside 0..2 (3 labels: 001, 002, 003)");
  EXPECT_ERROR(with({0, 1}, {-1}, {1}), kInvalidRequest, "identity index -1");
  EXPECT_ERROR(with({0, 1}, {2}, {1}, 2), kInvalidRequest, "view index 2 is outside 0..1 (2 labels: 000, 090)");
  EXPECT_ERROR(with({0, 1}, {0}, {1}, 0), kInvalidRequest, "dataset labels are given, but this model takes none");
  EXPECT_ERROR(with({0, 1}, {0}, {NAN}), kInvalidRequest, "weight is not a finite number");
  EXPECT_ERROR(with({1, 1}, {0}, {1}), kInvalidRequest, "begin at 1");
  EXPECT_ERROR(with({0, UINT64_MAX}, {0}, {1}), kInvalidRequest, "entries");
  GenerateRequest r = request_of(engine, 2);
  const uint64_t decreasing[] = {0, 2, 1};
  const int32_t labels[] = {0, 1};
  const float weights[] = {1, 1};
  r.conditions.axes[1] = {decreasing, labels, weights};
  EXPECT_ERROR(generate(engine, r), kInvalidRequest, "clip 1: identity offsets decrease");
  r.conditions = {};
  r.conditions.cond = weights;
  EXPECT_ERROR(generate(engine, r), kInvalidRequest, "takes none");
}

TEST_F(EngineTest, RefusesGuidanceThatWasNotTrained) {
  testing::TempFolder folder;
  const ModelConfig config = parse_config(testing::tiny_config(), "tiny");
  testing::write_package(folder.path() / "m", testing::tiny_config(),
                         testing::safetensors(testing::tensors_of(config)));
  Engine engine((folder.path() / "m").string(), threads(1));
  GenerateRequest r = request_of(engine, 1);
  EXPECT_NO_THROW(generate(engine, r));
  r.sampler.guidance = 1.5;
  EXPECT_ERROR(generate(engine, r), kInvalidRequest, "not trained for guidance");
}

}  // namespace
}  // namespace gaitcrafter
