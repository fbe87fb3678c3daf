#include "unet/unet.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "ops/aligned.h"
#include "testing/allocations.h"

namespace gaitcrafter {
namespace {

const char* const kModels[] = {"tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps"};

std::shared_ptr<const UNet> open_unet(const std::string& name, Isa isa = Isa::kPortable) {
  return UNet::create(ModelPackage::open(std::string(GAITCRAFTER_SOURCE_DIR) + "/tests/fixtures/" + name), isa);
}

// One clip's buffers, and the forward of it.
struct Lane {
  explicit Lane(const UNet& unet, int helpers = 0)
      : x(clip_floats(unet)),
        out(x.size()),
        state(unet.condition_floats()),
        placement(unet.place()),
        activations(placement.bytes),
        scratch(unet.scratch_bytes()),
        team(scratch.data(), helpers) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 7919 % 2001) - 1000) / 700.0f;
    unet.prepare_conditions({}, state.data());
  }
  static size_t clip_floats(const UNet& unet) {
    const ModelConfig& c = unet.config();
    return static_cast<size_t>(c.unet.channels) * c.clip.frames * c.clip.height * c.clip.width;
  }
  void forward(const UNet& unet, const TimeTables& time, int step) {
    unet.forward(x.data(), time, step, state.data(), out.data(), {&placement, activations.data(), nullptr}, team);
  }

  std::vector<float> x, out, state;
  Placement placement;
  AlignedBytes activations, scratch;
  Team team;
};

TEST(UNet, ForwardAllocatesNothing) {
  if (!testing::kCounting) GTEST_SKIP() << "the sanitizer owns operator new";
  const int32_t timesteps[] = {999, 3};
  for (const char* name : kModels) {
    const auto unet = open_unet(name);
    const auto time = unet->prepare_time(timesteps);
    Lane lane(*unet);
    const long before = testing::allocations;
    lane.forward(*unet, *time, 0);
    lane.forward(*unet, *time, 1);
    EXPECT_EQ(testing::allocations, before) << name;
  }
}

// Memory between guards that hold a pattern.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes), memory_(bytes + 2 * kGuard + 64) {
    std::memset(memory_.data(), 0x5a, bytes + 2 * kGuard);
  }
  std::byte* data() { return memory_.data() + kGuard; }
  bool intact() const {
    const std::byte* all = memory_.data();
    const auto untouched = [](std::byte b) { return b == std::byte{0x5a}; };
    return std::all_of(all, all + kGuard, untouched) &&
           std::all_of(all + kGuard + bytes_, all + 2 * kGuard + bytes_, untouched);
  }

 private:
  static constexpr size_t kGuard = 4096;
  size_t bytes_;
  AlignedBytes memory_;
};

// Memory outside the workspaces, on both sides, stays as it was, and how activations are divided changes no bit.
TEST(UNet, StaysInsideItsWorkspaces) {
  const int32_t timesteps[] = {500};
  for (const char* name : kModels) {
    const auto unet = open_unet(name);
    const auto time = unet->prepare_time(timesteps);
    Lane lane(*unet);
    lane.forward(*unet, *time, 0);
    const size_t whole = lane.placement.bytes;
    for (const size_t own : {SIZE_MAX, whole / 128 * 64, size_t{0}}) {
      const Placement placement = unet->place(own);
      EXPECT_EQ(placement.shared_bytes() > 0, own < whole) << name;
      Guarded scratch(unet->scratch_bytes()), first(placement.own_bytes()), second(placement.shared_bytes());
      Team team(scratch.data());
      std::vector<float> out(lane.out.size());
      unet->forward(lane.x.data(), *time, 0, lane.state.data(), out.data(), {&placement, first.data(), second.data()},
                    team);
      EXPECT_EQ(out, lane.out) << name;
      EXPECT_TRUE(scratch.intact() && first.intact() && second.intact()) << name;
    }
  }
}

TEST(UNet, ATeamMakesTheSameBitsAndAllocatesNothing) {
  const int32_t timesteps[] = {417};
  for (const char* name : kModels) {
    const auto unet = open_unet(name);
    const auto time = unet->prepare_time(timesteps);
    Lane alone(*unet), together(*unet, 2);
    alone.forward(*unet, *time, 0);
    std::deque<AlignedBytes> scratch;
    std::vector<std::thread> helpers;
    for (int i = 0; i < 2; ++i) {
      std::byte* mine = scratch.emplace_back(unet->scratch_bytes()).data();
      helpers.emplace_back([&together, mine] { together.team.help(mine, [] { return false; }); });
    }
    while (together.team.helpers() < 2) std::this_thread::yield();
    const long before = testing::allocations;
    for (int round = 0; round < 5; ++round) {
      together.forward(*unet, *time, 0);
      EXPECT_EQ(together.out, alone.out) << name;
    }
    if (testing::kCounting) {
      EXPECT_EQ(testing::allocations, before) << name;
    }
    together.team.dismiss();
    for (std::thread& t : helpers) t.join();
  }
}

TEST(UNet, TimesEveryNode) {
  const int32_t timesteps[] = {417};
  const auto unet = open_unet("tiny-paper");
  const auto time = unet->prepare_time(timesteps);
  Lane lane(*unet);
  const std::vector<NodeInfo> nodes = unet->nodes();
  NodeTimes times(nodes.size());
  for (int k = 0; k < 2; ++k)
    unet->forward(lane.x.data(), *time, 0, lane.state.data(), lane.out.data(),
                  {&lane.placement, lane.activations.data(), nullptr}, lane.team, &times);
  double operations = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    EXPECT_EQ(times[i].calls, 2u) << nodes[i].op;
    EXPECT_EQ(nodes[i].operations > 0, !nodes[i].arithmetic.empty()) << nodes[i].op;
    operations += nodes[i].operations;
  }
  EXPECT_DOUBLE_EQ(operations, unet->flops());
}

TEST(UNet, ThreadsShareOneNetworkAndGiveTheSameBits) {
  const int32_t timesteps[] = {0, 417};
  const auto unet = open_unet("tiny-maps", choose_isa());
  const auto time = unet->prepare_time(timesteps);
  std::deque<Lane> lanes;
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
