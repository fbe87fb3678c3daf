// Philox against Random123's published answers; normals against exact Box-Muller, a golden hash, and each other.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "noise/normal.h"
#include "noise/philox.h"

namespace gaitcrafter {
namespace {

using Words = std::array<uint32_t, 4>;

constexpr size_t kClip = 30 * 64 * 64;

std::vector<Isa> supported() {
  std::vector<Isa> tiers;
  for (const Isa isa : kIsas) {
    if (isa_supported(isa)) tiers.push_back(isa);
  }
  return tiers;
}

// Random123 1.14, tests/kat_vectors, philox4x32 10.
TEST(Philox, KnownAnswers) {
  constexpr uint32_t kOnes = 0xFFFFFFFFu;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Normal, FollowsTheContractOfCounterAndPairs) {
  const uint64_t seed = 0x123456789ABCDEF0u, clip = 0xFEDCBA9876543210u;
  const uint32_t stream = 1000;
  std::vector<float> got(kClip);
  fill_normal(seed, clip, stream, got.data(), got.size());
  double worst = 0;
  for (uint32_t block = 0; block < kClip / 4; ++block) {
    const Words w =
        philox4x32({block, stream, uint32_t(clip), uint32_t(clip >> 32)}, {uint32_t(seed), uint32_t(seed >> 32)});
    for (int pair = 0; pair < 2; ++pair) {
      const double u1 = ((w[2 * pair] >> 8) + 1) * 0x1p-24, u2 = (w[2 * pair + 1] >> 8) * 0x1p-24;
      const double r = std::sqrt(-2 * std::log(u1)), angle = 2 * std::numbers::pi * u2;
      worst = std::fmax(worst, std::fabs(got[4 * block + 2 * pair] - r * std::cos(angle)));
      worst = std::fmax(worst, std::fabs(got[4 * block + 2 * pair + 1] - r * std::sin(angle)));
    }
  }
  EXPECT_LT(worst, 6e-7);
  EXPECT_GT(worst, 0);
}

TEST(Normal, SameBitsOnEveryInstructionSet) {
  for (const uint64_t clip : {uint64_t{0}, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::vector<float> portable(kClip), wide(kClip);
    fill_normal(Isa::kPortable, 99 + clip, clip, 77, portable.data(), kClip);
    for (const Isa isa : supported()) {
      fill_normal(isa, 99 + clip, clip, 77, wide.data(), kClip);
      EXPECT_EQ(std::memcmp(portable.data(), wide.data(), kClip * sizeof(float)), 0) << isa_name(isa);
    }
  }
}

// FNV-1a of the bytes. If this fails, every clip that anyone has generated from a seed changes.
TEST(Normal, GoldenHashOfTheFirstClip) {
  for (const Isa isa : supported()) {
    std::vector<float> z(kClip);
    fill_normal(isa, 0, 0, kInitialNoiseStream, z.data(), z.size());
    uint64_t hash = 0xcbf29ce484222325u;
    std::vector<unsigned char> bytes(kClip * sizeof(float));
    std::memcpy(bytes.data(), z.data(), bytes.size());
    for (const unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
    EXPECT_EQ(hash, 0x59ff213891e80064u) << isa_name(isa);
  }
}

TEST(Normal, LengthsAreCutNotRounded) {
  std::vector<float> whole(kClip);
  fill_normal(5, 6, 7, whole.data(), kClip);
  for (const size_t n : {0, 1, 3, 4, 5, 255, 256, 257, 1023}) {
    for (const Isa isa : supported()) {
      std::vector<float> part(n + 1, -77.0f);
      fill_normal(isa, 5, 6, 7, part.data(), n);
      EXPECT_EQ(std::memcmp(part.data(), whole.data(), n * sizeof(float)), 0) << n;
      EXPECT_EQ(part[n], -77.0f) << n;
    }
  }
}

TEST(Normal, PartsAreTheWhole) {
  std::vector<float> whole(kClip);
  fill_normal(5, 6, 7, whole.data(), kClip);
  for (const size_t first : {0, 4, 252, 256, 1000, 4096}) {
    std::vector<float> part(513);
    fill_normal_from(5, 6, 7, first, part.data(), part.size());
    EXPECT_EQ(std::memcmp(part.data(), whole.data() + first, part.size() * sizeof(float)), 0) << first;
  }
}

TEST(Normal, EveryKeyAndCounterWordMatters) {
  std::vector<float> base(64), other(64);
  fill_normal(1, 1, 1, base.data(), 64);
  const auto differs = [&](uint64_t seed, uint64_t clip, uint32_t stream) {
    fill_normal(seed, clip, stream, other.data(), 64);
    return std::memcmp(base.data(), other.data(), 64 * sizeof(float)) != 0;
  };
  EXPECT_FALSE(differs(1, 1, 1));
  EXPECT_TRUE(differs(2, 1, 1));
  EXPECT_TRUE(differs(1 + (uint64_t{1} << 32), 1, 1));
  EXPECT_TRUE(differs(1, 2, 1));
  EXPECT_TRUE(differs(1, 1 + (uint64_t{1} << 32), 1));
  EXPECT_TRUE(differs(1, 1, 2));
}

}  // namespace
}  // namespace gaitcrafter
