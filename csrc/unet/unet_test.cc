#include "unet/unet.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "ops/aligned.h"

namespace {
std::atomic<long> allocations{0};
}  // namespace

// Counts what this program allocates with new, to show that a forward allocates nothing. Sanitizers bring an operator
// new of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCounting = false;
#else
constexpr bool kCounting = true;
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // malloc and free are this pair's own
void* operator new(size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
#endif

namespace gaitcrafter {
namespace {

const char* const kModels[] = {"tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps"};

std::shared_ptr<const UNet> open_unet(const std::string& name, Isa isa = Isa::kPortable) {
  return UNet::create(ModelPackage::open(std::string(GAITCRAFTER_SOURCE_DIR) + "/tests/fixtures/" + name), isa);
}

// One clip's buffers, and the forward of it.
struct Lane {
  explicit Lane(const UNet& unet)
      : x(clip_floats(unet)), out(x.size()), state(unet.condition_floats()), workspace(unet.workspace_bytes() / 4 + 1) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 7919 % 2001) - 1000) / 700.0f;
    unet.prepare_conditions({}, state.data());
  }
  static size_t clip_floats(const UNet& unet) {
    const ModelConfig& c = unet.config();
    return static_cast<size_t>(c.unet.channels) * c.clip.frames * c.clip.height * c.clip.width;
  }
  void forward(const UNet& unet, const TimeTables& time, int step) {
    unet.forward(x.data(), time, step, state.data(), out.data(), reinterpret_cast<std::byte*>(workspace.data()));
  }

  std::vector<float> x, out, state;
  AlignedFloats workspace;
};

TEST(UNet, ForwardAllocatesNothing) {
  if (!kCounting) GTEST_SKIP() << "the sanitizer owns operator new";
  const int32_t timesteps[] = {999, 3};
  for (const char* name : kModels) {
    const auto unet = open_unet(name);
    const auto time = unet->prepare_time(timesteps);
    Lane lane(*unet);
    const long before = allocations;
    lane.forward(*unet, *time, 0);
    lane.forward(*unet, *time, 1);
    EXPECT_EQ(allocations, before) << name;
  }
}

// Memory outside the workspace, on both sides, stays as it was.
TEST(UNet, StaysInsideItsWorkspace) {
  constexpr size_t kGuard = 4096;
  const int32_t timesteps[] = {500};
  for (const char* name : kModels) {
    const auto unet = open_unet(name);
    const auto time = unet->prepare_time(timesteps);
    Lane lane(*unet);
    const size_t bytes = unet->workspace_bytes();
    AlignedFloats memory((bytes + 2 * kGuard) / sizeof(float) + 1);
    auto* base = reinterpret_cast<std::byte*>(memory.data());
    std::memset(base, 0x5a, bytes + 2 * kGuard);
    unet->forward(lane.x.data(), *time, 0, lane.state.data(), lane.out.data(), base + kGuard);
    for (size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(base[i], std::byte{0x5a}) << name;
      ASSERT_EQ(base[kGuard + bytes + i], std::byte{0x5a}) << name;
    }
  }
}

TEST(UNet, ThreadsShareOneNetworkAndGiveTheSameBits) {
  const int32_t timesteps[] = {0, 417};
  const auto unet = open_unet("tiny-maps", choose_isa());
  const auto time = unet->prepare_time(timesteps);
  std::vector<Lane> lanes;
  for (int i = 0; i < 4; ++i) lanes.emplace_back(*unet);
  std::vector<std::thread> threads;
  for (Lane& lane : lanes) threads.emplace_back([&] { lane.forward(*unet, *time, 1); });
  for (std::thread& t : threads) t.join();
  for (const Lane& lane : lanes) EXPECT_EQ(lane.out, lanes[0].out);
}

TEST(UNet, ATimestepDoesNotDependOnItsNeighbours) {
  const int32_t alone[] = {417}, among[] = {999, 417, 0};
  const auto unet = open_unet("tiny-paper");
  Lane a(*unet), b(*unet);
  a.forward(*unet, *unet->prepare_time(alone), 0);
  b.forward(*unet, *unet->prepare_time(among), 1);
  EXPECT_EQ(a.out, b.out);
}

}  // namespace
}  // namespace gaitcrafter
