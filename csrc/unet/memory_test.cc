#include "unet/memory.h"

#include <gtest/gtest.h>

#include <random>

namespace gaitcrafter {
namespace {

std::vector<Lifetime> some_buffers(std::mt19937& random) {
  std::vector<Lifetime> buffers(40);
  for (Lifetime& b : buffers) {
    b.bytes = random() % 5000;
    b.first = static_cast<int>(random() % 60);
    b.last = b.first + static_cast<int>(random() % 20);
  }
  return buffers;
}

bool alive_together(const Lifetime& a, const Lifetime& b) { return a.first <= b.last && b.first <= a.last; }

void expect_valid(const std::vector<Lifetime>& buffers, const Placement& p) {
  ASSERT_EQ(p.offsets.size(), buffers.size());
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(p.offsets[i] % kMemoryAlignment, 0u);
    EXPECT_LE(p.offsets[i] + buffers[i].bytes, p.bytes);
    for (size_t j = 0; j < i; ++j) {
      if (!alive_together(buffers[i], buffers[j])) continue;
      const bool apart =
          p.offsets[i] + buffers[i].bytes <= p.offsets[j] || p.offsets[j] + buffers[j].bytes <= p.offsets[i];
      EXPECT_TRUE(apart) << i << " and " << j << " share memory while both live";
    }
  }
}

TEST(Memory, BuffersThatLiveTogetherAreApart) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const std::vector<Lifetime> buffers = some_buffers(random);
    expect_valid(buffers, place_buffers(buffers));
  }
}

TEST(Memory, DeadBuffersGiveTheirPlaceAway) {
  const std::vector<Lifetime> chain = {{1000, 0, 1}, {1000, 1, 2}, {1000, 2, 3}, {1000, 3, 4}};
  const Placement p = place_buffers(chain);
  expect_valid(chain, p);
  EXPECT_EQ(p.bytes, 2048u);  // two at a time, each rounded up to 1024
}

TEST(Memory, SmallOnesFillTheHoles) {
  const std::vector<Lifetime> buffers = {{4096, 0, 9}, {4096, 0, 2}, {4096, 5, 9}, {640, 3, 4}, {640, 3, 4}};
  const Placement p = place_buffers(buffers);
  expect_valid(buffers, p);
  EXPECT_EQ(p.bytes, 8192u);
}

TEST(Memory, NoBufferLiesAcrossTheEndOfTheFirstWorkspace) {
  std::mt19937 random(2);
  for (int round = 0; round < 50; ++round) {
    const std::vector<Lifetime> buffers = some_buffers(random);
    const size_t own = random() % 200 * kMemoryAlignment;
    const Placement p = place_buffers(buffers, own);
    expect_valid(buffers, p);
    EXPECT_EQ(p.own_bytes() + p.shared_bytes(), p.bytes);
    EXPECT_LE(p.own_bytes(), own);
    for (size_t i = 0; i < buffers.size(); ++i)
      EXPECT_TRUE(p.offsets[i] >= own || p.offsets[i] + buffers[i].bytes <= own) << "buffer " << i;
  }
}

TEST(Memory, ASecondWorkspaceTakesWhatTheFirstDoesNotHold) {
  const std::vector<Lifetime> buffers = {{4096, 0, 9}, {4096, 0, 9}, {2048, 0, 9}};
  const Placement p = place_buffers(buffers, 6144);  // one large and the small one fit, two large do not
  expect_valid(buffers, p);
  EXPECT_EQ(p.own_bytes(), 6144u);
  EXPECT_EQ(p.shared_bytes(), 4096u);
  EXPECT_EQ(place_buffers(buffers).shared_bytes(), 0u);
}

TEST(Memory, NothingIsNothing) { EXPECT_EQ(place_buffers({}).bytes, 0u); }

}  // namespace
}  // namespace gaitcrafter
