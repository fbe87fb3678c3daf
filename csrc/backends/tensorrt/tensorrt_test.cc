// Backend "tensorrt" on stand-ins for CUDA and TensorRT: which engine it takes, what it hands to it in which order, and
// what happens when a call fails. No TensorRT runs here.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "backends/graph_backend.h"
#include "backends/tensorrt/engine_cache.h"
#include "backends/tensorrt/network.h"
#include "model/sha256.h"
#include "sampler/table.h"
#include "testing/fake_cuda.h"
#include "testing/packages.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

namespace fs = std::filesystem;
using testing::FakeCuda;
using testing::fixture;

// A network of a line: every value of the output from x, t and the weights of its clip.
void line(size_t batch, size_t floats, const float* x, const int64_t* t, const std::vector<const float*>& weights,
          const std::vector<size_t>& columns, float* out) {
  for (size_t k = 0; k < batch; ++k) {
    float sum = 0.001f * static_cast<float>(t[k]);
    for (size_t w = 0; w < weights.size(); ++w)
      for (size_t c = 0; c < columns[w]; ++c) sum += weights[w][k * columns[w] + c] * static_cast<float>(c + 1) / 16.0f;
    for (size_t i = 0; i < floats; ++i) out[k * floats + i] = 0.5f * x[k * floats + i] + std::sin(sum);
  }
}

struct FakeTrt {
  std::string version = "10.14.1", fails;
  std::vector<std::string> loaded;
  std::set<std::string> shaped;
  int enqueued = 0;
};

class FakeEngine final : public TrtEngine {
 public:
  explicit FakeEngine(FakeTrt& trt) : trt_(trt) {}
  bool set_shape(const char* name, std::span<const int64_t> shape) override {
    shapes_[name] = {shape.begin(), shape.end()};
    trt_.shaped.insert(name);
    return trt_.fails != std::string("shape ") + name;
  }
  bool set_address(const char* name, void* memory) override {
    memory_[name] = memory;
    return trt_.fails != std::string("address ") + name;
  }
  bool enqueue(CudaStream stream) override {
    if (trt_.fails == "enqueue" || stream == nullptr) return false;
    ++trt_.enqueued;
    std::vector<const float*> weights;
    std::vector<size_t> columns;
    for (const char* name : {"weights.identity", "weights.view", "weights.covariate"}) {
      weights.push_back(static_cast<const float*>(memory_.at(name)));
      columns.push_back(static_cast<size_t>(shapes_.at(name).at(1)));
    }
    const auto& clip = shapes_.at("x");
    const size_t floats = static_cast<size_t>(clip[1] * clip[2] * clip[3] * clip[4]);
    line(static_cast<size_t>(clip[0]), floats, static_cast<const float*>(memory_.at("x")),
         static_cast<const int64_t*>(memory_.at("t")), weights, columns, static_cast<float*>(memory_.at("out")));
    return true;
  }

 private:
  FakeTrt& trt_;
  std::map<std::string, std::vector<int64_t>> shapes_;
  std::map<std::string, void*> memory_;
};

class FakeRuntime final : public TrtRuntime {
 public:
  explicit FakeRuntime(FakeTrt& trt) : trt_(trt) {}
  std::string version() const override { return trt_.version; }
  std::string last_error() const override { return "it said no"; }
  std::unique_ptr<TrtEngine> load(std::span<const std::byte> engine) override {
    trt_.loaded.emplace_back(reinterpret_cast<const char*>(engine.data()), engine.size());
    if (trt_.fails == "load") return nullptr;
    return std::make_unique<FakeEngine>(trt_);
  }

 private:
  FakeTrt& trt_;
};

// The same network without a GPU.
class LineSession final : public GraphSession {
 public:
  LineSession(const Exported& exported, int batch) : exported_(exported), batch_(static_cast<size_t>(batch)) {}
  void run(const GraphInputs& in, float* out) override {
    std::vector<const float*> weights;
    std::vector<size_t> columns;
    for (size_t a = 0; a < kAxes; ++a) {
      if (in.weights[a] == nullptr) continue;
      weights.push_back(in.weights[a]);
      columns.push_back(exported_.config.labels[a].size() + 1);
    }
    const auto& clip = exported_.config.clip;
    line(batch_, size_t(clip.frames) * size_t(clip.height) * size_t(clip.width), in.x, in.t, weights, columns, out);
  }

 private:
  const Exported& exported_;
  size_t batch_;
};

const std::string kWalker = fixture("exports/tiny-walker-fp32");
// What FakeCuda answers for attributes it does not know; tests/export/test_tensorrt_backend.py has the same key.
const std::string kGpu = "sm_90 232448 processors 232448 bytes L2 232448 bits bus";
const std::string kName = "d5e6888ebbdaac60fd25f03297be9afaa63521fae01d416dcb68809c880249e7.engine";

std::string framed(const EngineKey& key, const std::string& engine) {
  const std::string header = nlohmann::json{
      {"format_version", 1},
      {"key", key},
      {"sha256", sha256_hex(std::as_bytes(std::span(engine)))},
      {"bytes", engine.size()}}.dump();
  const auto length = static_cast<uint32_t>(header.size());
  return "GCTRTENG" + std::string(reinterpret_cast<const char*>(&length), 4) + header + engine;
}

class TensorRt : public ::testing::Test {
 protected:
  TensorRt() {
    fs::create_directories(engines_);
    fs::permissions(engines_, fs::perms::owner_all);
    ::setenv("GAITCRAFTER_CACHE", root_.c_str(), 1);
  }
  ~TensorRt() override { ::setenv("GAITCRAFTER_CACHE", "off", 1); }

  EngineKey key(const std::string& gpu = kGpu) const {
    const Exported e = read_export(kWalker);
    return {{"builder", "1"},
            {"library", "tensorrt 10.14.1"},
            {"model", e.model_sha256},
            {"graph", e.files.at("model.onnx")},
            {"data", "none"},
            {"precision", "fp32"},
            {"gpu", gpu},
            {"profiles", "2:2:2"},
            {"flags", "tf32=0 level=3"}};
  }
  fs::path keep(const EngineKey& key, const std::string& engine = "an engine") {
    const fs::path path = engines_ / (engine_key_hash(key) + ".engine");
    testing::write_file(path, framed(key, engine));
    fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
    return path;
  }
  std::unique_ptr<Network> open(const std::string& path = kWalker, EngineOptions options = {}, int batch = 2) {
    if (options.device == "cpu") options.device = "cuda";
    options.batch = batch;
    return open_tensorrt(path, options, cuda_.api(), [this](const std::string& library) {
      opened_.push_back(library);
      return std::make_unique<FakeRuntime>(trt_);
    });
  }

  testing::TempFolder folder_;
  const fs::path root_ = folder_.path() / "cache", engines_ = root_ / "engines";
  FakeCuda cuda_;
  FakeTrt trt_;
  std::vector<std::string> opened_;
};

struct Made {
  std::vector<uint8_t> packed;
  std::vector<float> x0;
};

// Three clips in batches of two, with guidance.
struct Clips {
  explicit Clips(const Network& network) {
    request.seed = 5;
    request.count = 3;
    request.sampler.steps = 4;
    table = compile_table(request.sampler, network.config().diffusion);
    guidance.scale = 2.0;
    conditions.resize(3);
    conditions[0].axes[1] = first;
    conditions[1].axes[1] = second;
    conditions[2].axes[2] = first;
    floats = size_t(network.config().clip.frames) * size_t(network.config().clip.height) *
             size_t(network.config().clip.width);
  }
  Made run(Network& network) {
    Made made{std::vector<uint8_t>(3 * ((floats + 7) / 8)), std::vector<float>(3 * floats)};
    network.generate(request, {made.packed, made.x0}, conditions, table, guidance);
    return made;
  }
  std::vector<LabelWeight> first = {{0, 1.0f}}, second = {{1, 0.5f}, {2, 0.5f}};
  GenerateRequest request;
  SamplerTable table;
  Guidance guidance{1.0, {true, true, true, true}};
  std::vector<ClipConditions> conditions;
  size_t floats = 0;
};

// The loop over a session on the host, as a network.
class LineNetwork final : public Network {
 public:
  LineNetwork() : session_(exported_, 2) { identity_.batch = 2; }
  const ModelConfig& config() const override { return exported_.config; }
  const std::string& model_sha256() const override { return exported_.model_sha256; }
  const NetworkIdentity& identity() const override { return identity_; }
  std::unique_ptr<BatchBackend> start(const SamplerTable& table, const Guidance& guidance) override {
    return std::make_unique<GraphBackend>(exported_, 2, table, guidance, session_, nullptr);
  }

 private:
  Exported exported_ = read_export(kWalker);
  LineSession session_;
  NetworkIdentity identity_;
};

TEST_F(TensorRt, MakesTheClipsOfTheSameNetworkWithoutAGpu) {
  keep(key());
  const auto network = open();
  LineNetwork host;
  Clips clips(*network);
  const Made want = clips.run(host), got = clips.run(*network);
  EXPECT_EQ(got.x0, want.x0);
  EXPECT_EQ(got.packed, want.packed);
  EXPECT_EQ(trt_.enqueued, 2 * 4 * 2);  // batches, steps, lanes
  EXPECT_EQ(trt_.shaped, (std::set<std::string>{"x", "t", "weights.identity", "weights.view", "weights.covariate"}));
  EXPECT_EQ(trt_.loaded, std::vector<std::string>{"an engine"});
  clips.run(*network);
  EXPECT_EQ(trt_.loaded.size(), 1u) << "an engine is loaded once";
  EXPECT_EQ(cuda_.count("Malloc"), 1u);
  EXPECT_EQ(cuda_.problems, std::vector<std::string>());
}

TEST_F(TensorRt, GivesBackWhatItTookAndNamesWhatItRuns) {
  keep(key());
  {
    const auto network = open();
    Clips(*network).run(*network);
    EXPECT_GT(cuda_.live(), 0u);
    EXPECT_EQ(network->identity().backend, "tensorrt");
    EXPECT_EQ(network->identity().batch, 2);
    EXPECT_EQ(network->identity().runtime, "tensorrt 10.14.1 (C++)");
    const std::string first = network->identity().sha256;
    keep(key(), "another build of it");
    EXPECT_NE(open()->identity().sha256, first) << "two builds of one network can differ in bits";
  }
  EXPECT_EQ(cuda_.live(), 0u);
}

TEST_F(TensorRt, TheKeyIsThatOfThePythonSide) { EXPECT_EQ(keep(key()).filename(), kName); }

TEST_F(TensorRt, WithoutAGpuNothingOfTensorRtIsTouched) {
  keep(key());
  cuda_.fail("GetDeviceCount", 1, kCudaInsufficientDriver);
  EXPECT_ERROR(open(), kCapability, "needs an NVIDIA GPU and its driver");
  cuda_.devices = 0;
  EXPECT_ERROR(open(), kCapability, "this machine has 0 NVIDIA GPUs");
  EXPECT_TRUE(opened_.empty());
  cuda_.devices = 1;
  EngineOptions second;
  second.device = "cuda:1";
  EXPECT_ERROR(open(kWalker, second), kCapability, "device is cuda:1; this machine has 1");
  EXPECT_TRUE(opened_.empty());
}

TEST_F(TensorRt, AnEngineForAnotherGpuOrVersionIsNotTaken) {
  EXPECT_ERROR(open(), kCapability, "build it: gaitcrafter-rt export tensorrt");
  keep(key("sm_89 128 processors 75497472 bytes L2 384 bits bus"));
  EXPECT_ERROR(open(), kCapability, "there are engines of it for sm_89 128 processors");
  EXPECT_ERROR(open(), kCapability, "no engine for this GPU (" + kGpu);
  keep(key());
  trt_.version = "10.15.0";
  EXPECT_ERROR(open(), kCapability, "tensorrt 10.15.0, batch 2:2:2");
  trt_.version = "10.14.1";
  EXPECT_ERROR(open(kWalker, {}, 4), kCapability, "--batch 4");
  open();
}

TEST_F(TensorRt, AnEngineThatIsNotWholeIsRefused) {
  const fs::path path = keep(key());
  const std::string good = testing::read_file(path);
  const auto refuse = [&](const std::string& text, const char* why) {
    testing::write_file(path, text);
    EXPECT_ERROR(open(), kDataFormat, why);
    EXPECT_ERROR(open(), kDataFormat, "build it anew");
  };
  refuse("", "no engine of this package");
  refuse("PK" + good, "no engine of this package");
  refuse(good.substr(0, good.size() - 1), "its size does not fit");
  refuse(good.substr(0, good.size() - 1) + "x", "its checksum does not fit");
  refuse(good.substr(0, 8) + std::string(4, '\xff') + good.substr(12), "its header is said to have 4294967295 bytes");
  refuse(good.substr(0, 8) + std::string("\x05\0\0\0", 4) + good.substr(12), "its header cannot be read");
  refuse(framed(key("sm_80"), "an engine"), "holds an engine for something else");
}

TEST_F(TensorRt, WhatOthersMayWriteIsNotRead) {
  const fs::path path = keep(key());
  fs::permissions(path, fs::perms::group_write, fs::perm_options::add);
  EXPECT_ERROR(open(), kDataFormat, "you alone may write");
  fs::rename(path, folder_.path() / "elsewhere");
  fs::create_symlink(folder_.path() / "elsewhere", path);
  EXPECT_ERROR(open(), kDataFormat, "you alone may write");
  fs::remove(path);
  keep(key());
  fs::permissions(engines_, fs::perms::group_read, fs::perm_options::add);
  EXPECT_ERROR(open(), kCapability, "chmod 700");
  fs::permissions(engines_, fs::perms::owner_all);
  ::setenv("GAITCRAFTER_CACHE", "off", 1);
  EXPECT_ERROR(open(), kCapability, "switched off");
}

TEST_F(TensorRt, ACallThatFailsIsAnError) {
  keep(key());
  const auto run = [&] {
    const auto network = open();
    Clips(*network).run(*network);
  };
  for (const char* fails : {"shape x", "shape weights.view", "address out", "load"}) {
    trt_.fails = fails;
    EXPECT_ERROR(run(), kCapability, "it said no");
  }
  trt_.fails = "enqueue";
  EXPECT_ERROR(run(), kInternal, "TensorRT does not run: it said no");
  trt_.fails = "";
  cuda_.fail("Malloc", 1, kCudaOutOfMemory);
  EXPECT_ERROR(run(), kOutOfMemory, "smaller batch");
  cuda_.fail("StreamSynchronize", 1, 700);
  EXPECT_ERROR(run(), kInternal, "running an engine failed");
  EXPECT_EQ(cuda_.live(), 0u);
}

TEST_F(TensorRt, ItDoesNotSurviveAFork) {
  keep(key());
  const auto network = open();
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      Clips(*network).run(*network);
      ::_exit(1);
    } catch (const Error& e) {
      ::_exit(e.status() == Status::kInvalidRequest ? 0 : 2);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(TensorRt, RequestsThatMakeNoSenseAreRefused) {
  keep(key());
  EngineOptions o;
  o.device = "tensorrt";
  EXPECT_ERROR(open(kWalker, o), kInvalidRequest, "backend \"tensorrt\" takes \"cuda\"");
  o = {};
  o.isa = "avx2";
  EXPECT_ERROR(open(kWalker, o), kInvalidRequest, "leave them out");
  o = {};
  o.precision = "fp16";
  EXPECT_ERROR(open(kWalker, o), kInvalidRequest, "exported in fp32");
  EXPECT_ERROR(open(fixture("tiny-walker")), kModelFormat, "gaitcrafter-rt export onnx");
  EXPECT_ERROR(open(fixture("exports/tiny-paper-fp16"), {}, 3), kInvalidRequest, "exported for batch 2");
}

}  // namespace
}  // namespace gaitcrafter
