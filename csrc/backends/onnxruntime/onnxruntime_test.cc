// The exported graphs of tests/fixtures/exports on ONNX Runtime's CPU provider, against the native engine.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/engine.h"
#include "sampler/pack.h"
#include "testing/packages.h"

namespace gaitcrafter {
namespace {

std::string exported(const std::string& name) { return testing::fixture("exports/" + name); }

EngineOptions on_onnxruntime(int batch = 0) {
  EngineOptions o;
  o.backend = "onnxruntime";
  o.batch = batch;
  o.threads = 1;
  return o;
}

EngineOptions native() {
  EngineOptions o;
  o.precision = "fp32";
  o.threads = 1;
  return o;
}

struct Clips {
  std::vector<uint8_t> packed;
  std::vector<float> x0;
};

Clips generate(Engine& engine, GenerateRequest request) {
  Clips clips{std::vector<uint8_t>(request.count * engine.packed_bytes()),
              std::vector<float>(request.count * engine.clip_floats())};
  engine.generate(request, {clips.packed, clips.x0});
  return clips;
}

double largest_difference(const Clips& a, const Clips& b) {
  double most = 0;
  for (size_t i = 0; i < a.x0.size(); ++i) most = std::max(most, std::fabs(double(a.x0[i]) - b.x0[i]));
  return most;
}

double disagreement(const Clips& a, const Clips& b) {
  size_t bits = 0;
  for (size_t i = 0; i < a.packed.size(); ++i)
    bits += static_cast<size_t>(__builtin_popcount(a.packed[i] ^ b.packed[i]));
  return static_cast<double>(bits) / (8.0 * static_cast<double>(a.packed.size()));
}

class OnnxRuntime : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* library = std::getenv("GAITCRAFTER_ONNXRUNTIME");
    if (library == nullptr || *library == '\0')
      GTEST_SKIP() << "no onnxruntime wheel for the Python that CMake found, and GAITCRAFTER_ONNXRUNTIME names none";
  }
  static void expect_error(const EngineOptions& options, const std::string& path, Status status,
                           const std::string& part) {
    try {
      const Engine engine(path, options);
      ADD_FAILURE() << "opened";
    } catch (const Error& e) {
      EXPECT_EQ(e.status(), status) << e.what();
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  }
};

// One axis blended, one absent, one plain; five clips, so that the last batch of 2 or 3 is padded.
struct LabelRequest {
  LabelRequest() {
    request.seed = 11;
    request.count = 5;
    request.conditions.axes[1] = {identity_offsets.data(), identities.data(), identity_weights.data()};
    request.conditions.axes[2] = {view_offsets.data(), views.data(), view_weights.data()};
  }
  std::vector<uint64_t> identity_offsets{0, 1, 3, 3, 4, 5}, view_offsets{0, 1, 2, 3, 4, 4};
  std::vector<int32_t> identities{0, 0, 2, 1, 2}, views{0, 1, 1, 0};
  std::vector<float> identity_weights{1, 0.5f, 0.5f, 1, 1}, view_weights{1, 1, 1, 1};
  GenerateRequest request;
};

TEST_F(OnnxRuntime, AgreesWithTheNativeEngine) {
  LabelRequest labels;
  Engine ours(testing::fixture("tiny-walker"), native());
  Engine theirs(exported("tiny-walker-fp32"), on_onnxruntime(2));
  EXPECT_EQ(theirs.model_sha256(), ours.model_sha256());
  EXPECT_EQ(theirs.identity().batch, 2);
  EXPECT_EQ(theirs.identity().sha256.size(), 64u);
  EXPECT_EQ(theirs.flops(), ours.flops());
  for (const double guidance : {1.0, 2.0, 0.0}) {
    for (const bool all_axes : {true, false}) {
      GenerateRequest request = labels.request;
      request.sampler = ours.config().sampler;
      request.sampler.guidance = guidance;
      request.null_axes = {true, true, all_axes, true};
      const Clips a = generate(ours, request), b = generate(theirs, request);
      EXPECT_LT(largest_difference(a, b), 2e-4) << guidance;
      EXPECT_LT(disagreement(a, b), 0.001) << guidance;
    }
  }
}

TEST_F(OnnxRuntime, RunsSamplersWithNoiseHistoryAndDynamicThresholds) {
  LabelRequest labels;
  Engine ours(testing::fixture("tiny-walker"), native());
  Engine theirs(exported("tiny-walker-fp32"), on_onnxruntime(3));
  for (const SamplerKind kind : {SamplerKind::kDdpm, SamplerKind::kDpmpp3m}) {
    GenerateRequest request = labels.request;
    request.sampler = ours.config().sampler;
    request.sampler.kind = kind;
    request.sampler.steps = 6;
    request.sampler.thresholding = Thresholding::kDynamic;
    const Clips a = generate(ours, request), b = generate(theirs, request);
    EXPECT_LT(largest_difference(a, b), 1e-3);
    EXPECT_LT(disagreement(a, b), 0.001);
  }
}

TEST_F(OnnxRuntime, AClipDoesNotDependOnTheOthersOfItsBatch) {
  LabelRequest labels;
  Engine engine(exported("tiny-walker-fp32"), on_onnxruntime(4));
  labels.request.sampler = engine.config().sampler;
  const Clips all = generate(engine, labels.request);
  GenerateRequest last = labels.request;  // clip 4 alone: identity 2, view null
  const uint64_t one[] = {0, 1}, none[] = {0, 0};
  const int32_t label = 2;
  const float weight = 1;
  last.count = 1;
  last.start = 4;
  last.conditions.axes[1] = {one, &label, &weight};
  last.conditions.axes[2] = {none, nullptr, nullptr};
  const Clips alone = generate(engine, last);
  EXPECT_TRUE(std::equal(alone.x0.begin(), alone.x0.end(), all.x0.end() - static_cast<ptrdiff_t>(alone.x0.size())));
}

TEST_F(OnnxRuntime, TakesGivenNoiseAndCanBeStopped) {
  Engine ours(testing::fixture("tiny-walker"), native());
  Engine theirs(exported("tiny-walker-fp32"), on_onnxruntime(2));
  GenerateRequest request;
  request.sampler = ours.config().sampler;
  const std::vector<float> noise(ours.clip_floats(), 0.25f);
  request.initial_noise = noise.data();
  EXPECT_LT(largest_difference(generate(ours, request), generate(theirs, request)), 2e-4);
  request.keep_going = [](const Progress& p) { return p.steps_done == 0; };
  EXPECT_THROW(generate(theirs, request), Error);
}

// An eps-model in fp16: its first steps run on the fp32 graph, without which x_0 would be far off.
TEST_F(OnnxRuntime, AnEpsModelRunsItsFirstStepsExactly) {
  Engine ours(testing::fixture("tiny-paper"), native());
  Engine theirs(exported("tiny-paper-fp16"), on_onnxruntime());
  EXPECT_EQ(theirs.identity().precision, "fp16");
  EXPECT_EQ(theirs.identity().batch, 2);
  GenerateRequest request;
  request.count = 3;
  request.sampler = ours.config().sampler;
  request.sampler.steps = 1;  // x_0 is 64,166 times the output
  const std::vector<uint64_t> offsets{0, 1, 1, 2};
  const std::vector<int32_t> labels{1, 2};
  const std::vector<float> weights{1, 1};
  request.conditions.axes[1] = {offsets.data(), labels.data(), weights.data()};
  EXPECT_LT(disagreement(generate(ours, request), generate(theirs, request)), 0.02);
}

TEST_F(OnnxRuntime, WhatCannotBeIsRefusedWithTheRemedy) {
  const std::string good = exported("tiny-walker-fp32");
  EngineOptions o = on_onnxruntime();
  o.device = "cuda";
  expect_error(o, good, Status::kCapability, "onnxruntime-gpu");
  o.device = "tpu";
  expect_error(o, good, Status::kInvalidRequest, "\"cpu\", \"cuda\" and \"tensorrt\"");
  o = on_onnxruntime();
  o.precision = "bf16";
  expect_error(o, good, Status::kInvalidRequest, "exported in fp32");
  expect_error(on_onnxruntime(5), exported("tiny-paper-fp16"), Status::kInvalidRequest, "exported for batch 2");
  o = on_onnxruntime();
  o.isa = "avx2";
  expect_error(o, good, Status::kInvalidRequest, "leave them out");
  expect_error(on_onnxruntime(), testing::fixture("tiny-walker"), Status::kModelFormat, "gaitcrafter-rt export onnx");
  o = on_onnxruntime();
  o.library = "/nowhere/libonnxruntime.so";
  expect_error(o, good, Status::kInvalidRequest, "one ONNX Runtime");
}

TEST_F(OnnxRuntime, AChangedFileIsRefused) {
  const testing::TempFolder copy;
  const auto folder = copy.path() / "export";
  std::filesystem::copy(exported("tiny-walker-fp32"), folder);
  std::string graph = testing::read_file(folder / "model.onnx");
  graph[graph.size() / 2] ^= 1;
  testing::write_file(folder / "model.onnx", graph);
  expect_error(on_onnxruntime(), folder.string(), Status::kModelFormat, "the file was changed");
}

}  // namespace
}  // namespace gaitcrafter
