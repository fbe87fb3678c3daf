// The cubin backend on a stand-in for CUDA: what it asks for, in which order, and what is left when a call fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "backends/cuda/cubin_network.h"
#include "testing/fake_cuda.h"
#include "testing/fake_pack.h"
#include "testing/packages.h"
#include "testing/throws.h"
#include "unet/conditions.h"

namespace gaitcrafter {
namespace {

using testing::FakeCuda;

const std::string& pack_folder() {
  static const testing::TempFolder folder;
  static const std::string path = [] {
    testing::write_fake_pack(folder.path() / "pack");
    return (folder.path() / "pack").string();
  }();
  return path;
}

struct Made {
  std::vector<uint8_t> packed;
  std::vector<float> x0;
};

class Cubin : public ::testing::Test {
 protected:
  void SetUp() override {
    cuda_.execute = &testing::run_fake_kernel;
    request_.seed = 3;
    request_.start = 10;
    request_.count = 7;
    request_.sampler.steps = 3;
    request_.sampler.thresholding = Thresholding::kClip;
    request_.sampler.guidance = 2.0;
  }

  std::unique_ptr<Network> open(int batch = 2, bool graphs = true) {
    EngineOptions options;
    options.device = "cuda";
    options.batch = batch;
    return open_cubin(pack_folder(), options, cuda_.api(), graphs);
  }

  Made run(Network& network, bool row_by_row = false) {
    const SamplerTable table = compile_table(request_.sampler, network.config().diffusion);
    const Guidance guidance{request_.sampler.guidance, {true, true, true, true}};
    std::vector<LabelWeight> first = {{0, 1.0f}}, second = {{1, 0.5f}};
    std::vector<ClipConditions> conditions(request_.count);
    for (size_t i = 0; i < conditions.size(); ++i) conditions[i].axes[1] = i % 2 == 0 ? first : second;
    Made made{std::vector<uint8_t>(request_.count * 24), std::vector<float>(request_.count * testing::kFakeFloats)};
    const GenerateOutput output{made.packed, made.x0};
    if (row_by_row) {
      network.Network::generate(request_, output, conditions, table, guidance);
    } else {
      network.generate(request_, output, conditions, table, guidance);
    }
    return made;
  }

  // x_0 of a clip as the fake kernels make it, from the host's own terms.
  float expected(uint64_t clip, int lanes) {
    const auto package = ModelPackage::open(pack_folder() + "/model");
    const auto unet = UNet::create(package, Isa::kPortable);
    const SamplerTable table = compile_table(request_.sampler, package->config().diffusion);
    const auto time = unet->prepare_time(table.timesteps());
    std::vector<LabelWeight> labels = {{static_cast<int32_t>(clip % 2), clip % 2 == 0 ? 1.0f : 0.5f}};
    ClipConditions conditions;
    conditions.axes[1] = labels;
    std::vector<float> state(2 * unet->condition_floats());
    Guidance guidance;
    guidance.scale = lanes == 2 ? 2.0 : 1.0;
    prepare_lanes(*unet, guidance, conditions, state.data(), nullptr);
    float x = static_cast<float>(request_.start + clip);
    for (int row = 0; row < table.size(); ++row) {
      for (int lane = 0; lane < lanes; ++lane) {
        const size_t at = static_cast<size_t>(lane) * unet->condition_floats() + testing::kFakeMap;
        x += static_cast<const FilmTimeTables&>(*time).step(row)[0] + state[at];
      }
    }
    return x;
  }

  FakeCuda cuda_;
  GenerateRequest request_;
};

TEST_F(Cubin, EveryClipComesFromItsOwnConditionsAndRows) {
  for (const int batch : {1, 2, 4, 64}) {
    for (const double guidance : {1.0, 2.0}) {
      request_.sampler.guidance = guidance;
      const Made made = run(*open(batch));
      for (uint64_t clip = 0; clip < request_.count; ++clip) {
        const float x = expected(clip, guidance == 1.0 ? 1 : 2);
        ASSERT_EQ(made.x0[clip * testing::kFakeFloats], x) << batch << " " << clip;
        ASSERT_EQ(made.packed[clip * 24], static_cast<uint8_t>(static_cast<int>(x)));
      }
    }
  }
  EXPECT_EQ(cuda_.problems, std::vector<std::string>());
  EXPECT_EQ(cuda_.live(), 0u);
}

TEST_F(Cubin, GraphsLaunchesAndRowsAreTheSame) {
  const auto graphs = open(2), launches = open(2, false);
  const Made one = run(*graphs), two = run(*launches), three = run(*launches, true);
  EXPECT_EQ(one.x0, two.x0);
  EXPECT_EQ(one.x0, three.x0);
  EXPECT_EQ(one.packed, three.packed);
  EXPECT_EQ(cuda_.problems, std::vector<std::string>());
}

TEST_F(Cubin, TheGpuIsTouchedByRunsAndMemoryIsTakenOnce) {
  const auto network = open(2);
  EXPECT_TRUE(cuda_.calls.empty()) << "a process may open a model and fork";
  run(*network);
  const size_t device = cuda_.count("Malloc"), pinned = cuda_.count("MallocHost"),
               graphs = cuda_.count("StreamBeginCapture");
  EXPECT_EQ(device, 2u);                           // weights, and everything else
  EXPECT_EQ(graphs, 2u);                           // whole batches, and the last clip alone
  EXPECT_EQ(cuda_.count("FuncSetAttribute"), 1u);  // more than 48 KiB of shared memory: one kernel
  run(*network);
  request_.seed = 4;
  request_.threshold = 0.25f;
  run(*network);
  EXPECT_EQ(cuda_.count("Malloc"), device);
  EXPECT_EQ(cuda_.count("MallocHost"), pinned);
  EXPECT_EQ(cuda_.count("StreamBeginCapture"), graphs) << "a graph runs again with other seeds and thresholds";
  request_.sampler.guidance = 1.0;  // half the lanes: other memory, after the old is gone
  run(*network);
  EXPECT_EQ(cuda_.count("Malloc"), device + 1);
  EXPECT_EQ(cuda_.problems, std::vector<std::string>());
}

TEST_F(Cubin, TwoBatchesAreInFlight) {
  run(*open(2));
  // Of four batches the third is started when the first is awaited: launches before the first query of an event.
  const auto first = std::find(cuda_.calls.begin(), cuda_.calls.end(), "EventQuery");
  EXPECT_EQ(std::count(cuda_.calls.begin(), first, "GraphLaunch"), 2);
}

TEST_F(Cubin, RowsThatAmplifyRunInFp32) {
  request_.sampler.steps = 20;  // the first row of an eps-model multiplies by far more than 32
  run(*open(8, false));
  std::string networks;  // e: fp32, n: the pack's precision
  for (const auto& l : cuda_.launches)
    if (l.code == "exact" || l.code == "net") networks += l.code[0];
  const size_t exact = networks.find('n');
  EXPECT_EQ(networks.size(), 20u);
  EXPECT_GE(exact, 1u);
  EXPECT_EQ(networks, std::string(exact, 'e') + std::string(20 - exact, 'n'));
  EXPECT_EQ(cuda_.problems, std::vector<std::string>());
}

TEST_F(Cubin, GridsScaleWithClipsAndLanes) {
  run(*open(4, false));
  std::map<std::string, unsigned> first;
  for (const auto& l : cuda_.launches) first.emplace(l.code, l.grid.x);
  EXPECT_EQ(first["noise"], 4u);
  EXPECT_EQ(first["film"], 8u);
  EXPECT_EQ(first["net"], 16u);
  EXPECT_EQ(first["step2"], 4u);
  EXPECT_EQ(cuda_.launches.front().block.x, 128u);
}

TEST_F(Cubin, MemoryThatIsShortMakesBatchesSmaller) {
  cuda_.memory = 40000;
  const auto network = open(64);
  request_.count = 64;
  const Made made = run(*network);
  EXPECT_EQ(made.x0[63 * testing::kFakeFloats], expected(63, 2));
  const auto largest = std::max_element(cuda_.launches.begin(), cuda_.launches.end(),
                                        [](const auto& a, const auto& b) { return a.grid.x < b.grid.x; });
  EXPECT_LT(largest->grid.x, 4 * 64u);
  EXPECT_EQ(cuda_.problems, std::vector<std::string>());
}

TEST_F(Cubin, ACancelledCallLeavesNothingRunning) {
  cuda_.queries_before_ready = 1000000;
  const auto network = open(2);
  int reports = 0;
  request_.keep_going = [&](const Progress& p) {
    EXPECT_EQ(p.clips_total, 7u);
    return ++reports < 2;
  };
  EXPECT_ERROR(run(*network), kCancelled, "no clip of this call was kept");
  EXPECT_EQ(cuda_.calls.back(), "StreamSynchronize");
  cuda_.queries_before_ready = 0;
  request_.keep_going = {};
  EXPECT_EQ(run(*network).x0[0], expected(0, 2));
}

TEST_F(Cubin, ValuesThatAreNotFiniteAreReported) {
  cuda_.execute = [](const testing::FakeLaunch& l) {
    testing::run_fake_kernel(l);
    if (l.code == "pack") static_cast<int32_t*>(l.pointers[3])[1] = 5;
  };
  EXPECT_ERROR(run(*open(4)), kInternal, "clips 10 to 13: 5 values of the network were not finite");
  EXPECT_EQ(cuda_.live(), 0u);
}

// Every call that a run makes, failing at each of its first times and its last.
TEST_F(Cubin, WhicheverCallFailsTheErrorIsTypedAndEverythingIsGivenBack) {
  run(*open(2));
  std::map<std::string, int> counts;
  for (const std::string& name : cuda_.calls) ++counts[name];
  const std::vector<std::string> ignored = {"Free",         "FreeHost",         "StreamDestroy", "EventDestroy",
                                            "GraphDestroy", "GraphExecDestroy", "LibraryUnload", "GetErrorString"};
  int tried = 0;
  for (const auto& [name, count] : counts) {
    if (std::find(ignored.begin(), ignored.end(), name) != ignored.end()) continue;
    for (const int at : {1, 2, 3, count}) {
      // The last wait of a stream is the destructor's, which has nobody to tell.
      if (at > count || (name == "StreamSynchronize" && at == count)) continue;
      FakeCuda cuda;
      cuda.execute = &testing::run_fake_kernel;
      cuda.fail(name, at, 700);
      EngineOptions options;
      options.device = "cuda";
      options.batch = 2;
      {
        const auto network = open_cubin(pack_folder(), options, cuda.api(), true);
        EXPECT_ERROR(run(*network), kInternal, "CUDA error 700");
      }
      EXPECT_EQ(cuda.live(), 0u) << name << " " << at;
      EXPECT_EQ(cuda.problems, std::vector<std::string>()) << name << " " << at;
      ++tried;
    }
  }
  EXPECT_GT(tried, 40);
}

TEST_F(Cubin, ErrorsOfCudaSayWhatToDo) {
  const auto attempt = [&](const std::string& call, int error) {
    cuda_.fail(call, 1, error);
    run(*open(2));
  };
  EXPECT_ERROR(attempt("GetDeviceCount", kCudaInsufficientDriver), kCapability, "needs an NVIDIA GPU and its driver");
  EXPECT_ERROR(attempt("Malloc", kCudaOutOfMemory), kOutOfMemory, "use a smaller batch");
  EXPECT_ERROR(attempt("LibraryLoadData", kCudaNoKernelImage), kCapability, "gaitcrafter-rt export kernels");
  cuda_.devices = 0;
  EXPECT_ERROR(run(*open(2)), kCapability, "GPU 0 is not there; this machine has 0");
  cuda_.devices = 1;
  cuda_.shared_optin = 99 << 10;
  cuda_.shared_optin = 90000;
  EXPECT_ERROR(run(*open(2)), kCapability, "needs 100000 bytes of shared memory");
  cuda_.shared_optin = 227 << 10;
  cuda_.major = 7;
  cuda_.minor = 5;
  EXPECT_ERROR(run(*open(2)), kCapability, "run the exported ONNX network in fp16");
  cuda_.major = 10;
  EXPECT_ERROR(run(*open(2)), kCapability, "has no code for sm_105; export it");
  EXPECT_EQ(cuda_.live(), 0u);
}

TEST_F(Cubin, OptionsAreChecked) {
  const auto with = [&](auto change) {
    EngineOptions options;
    options.device = "cuda";
    change(options);
    open_cubin(pack_folder(), options, cuda_.api(), true);
  };
  EXPECT_ERROR(with([](auto& o) { o.device = "cuda:-1"; }), kInvalidRequest, "takes \"cuda\" or \"cuda:0\"");
  EXPECT_ERROR(with([](auto& o) { o.device = "cpu"; }), kInvalidRequest, "device is \"cpu\"");
  EXPECT_ERROR(with([](auto& o) { o.precision = "fp32"; }), kInvalidRequest, "holds kernels in bf16");
  EXPECT_ERROR(with([](auto& o) { o.isa = "avx2"; }), kInvalidRequest, "backend \"native\"");
  EngineOptions second;
  second.device = "cuda:1";
  EXPECT_ERROR(run(*open_cubin(pack_folder(), second, cuda_.api(), true)), kCapability, "GPU 1 is not there");
}

}  // namespace
}  // namespace gaitcrafter
