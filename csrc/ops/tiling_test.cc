#include "ops/tiling.h"

#include <gtest/gtest.h>

#include <vector>

#include "ops/packing.h"

namespace gaitcrafter {
namespace {

struct Shape {
  int frames, height, width, channels;
};

// The paper's levels, the walker preset's, and sizes that divide by nothing.
const Shape kShapes[] = {{30, 64, 64, 64}, {30, 64, 64, 128}, {30, 8, 8, 1024}, {30, 16, 16, 32},    {30, 4, 4, 256},
                         {1, 1, 1, 1},     {7, 13, 5, 130},   {3, 101, 7, 48},  {2, 512, 512, 4096}, {5, 3, 512, 16}};

// Counts how often each row of each frame belongs to a tile, by the rule of halo_image.h.
void expect_rows_covered_once(const ConvGrid& g) {
  std::vector<int> seen(static_cast<size_t>(g.frames) * g.height);
  for (int tile = 0; tile < g.tiles; ++tile) {
    const bool banded = g.bands > 1;
    const int frame = banded ? tile / g.bands : tile * g.tile_frames;
    const int frames = banded ? 1 : std::min(g.tile_frames, g.frames - frame);
    const int row = banded ? tile % g.bands * g.rows : 0, rows = banded ? std::min(g.rows, g.height - row) : g.height;
    ASSERT_GT(frames, 0);
    ASSERT_GT(rows, 0);
    for (int f = frame; f < frame + frames; ++f)
      for (int y = row; y < row + rows; ++y) ++seen.at(static_cast<size_t>(f) * g.height + y);
  }
  for (const int count : seen) ASSERT_EQ(count, 1);
}

TEST(Tiling, ConvolutionTilesCoverEveryRowOnce) {
  for (const Shape& s : kShapes) {
    for (const OperandType operand : {OperandType(DType::kF32), OperandType(DType::kBf16, true)}) {
      expect_rows_covered_once(conv_grid(operand, s.frames, s.height, s.width, s.channels, 3, 1));
      expect_rows_covered_once(conv_grid(operand, s.frames, s.height, s.width, s.channels, 7, 1));
      expect_rows_covered_once(conv_grid(operand, s.frames, s.height, s.width, s.channels, 4, 2));
    }
    expect_rows_covered_once(winograd_grid(s.frames, s.height, s.width, s.channels));
  }
}

// A patch of Winograd's is two rows high; a band that began in the middle of one would be computed twice.
TEST(Tiling, WinogradBandsBeginOnEvenRows) {
  for (const Shape& s : kShapes) {
    const ConvGrid g = winograd_grid(s.frames, s.height, s.width, s.channels);
    if (g.bands > 1) {
      EXPECT_EQ(g.rows % 2, 0);
    }
    EXPECT_GE(g.batch, 1);
  }
}

TEST(Tiling, ChannelBlocksAreBalanced) {
  EXPECT_EQ(conv_channel_block(DType::kF32, 1), 1);
  EXPECT_EQ(conv_channel_block(DType::kF32, 64), 64);
  EXPECT_EQ(conv_channel_block(DType::kF32, 96), 48);
  EXPECT_EQ(conv_channel_block(DType::kF32, 130), 44);
  EXPECT_EQ(conv_channel_block(DType::kF32, 1024), 64);
}

// Only the last block may leave a tile of the matrix unit partly empty.
TEST(Tiling, ChannelBlocksFillTiles) {
  for (const OperandType operand : {OperandType(DType::kBf16, true), OperandType(DType::kU8, true)}) {
    for (int channels = 1; channels < 1100; ++channels) {
      const int block = conv_channel_block(operand, channels);
      ASSERT_LE(block, channels);
      if (block < channels) {
        ASSERT_EQ(block % operand.unit(), 0);
      }
    }
  }
}

TEST(Tiling, TokenRowsSpreadOverTheCache) {
  for (int tokens = 1; tokens < 2000; ++tokens) {
    const ptrdiff_t pitch = token_pitch(tokens);
    ASSERT_GE(pitch, tokens + kWidestLanes);
    ASSERT_EQ(pitch % kWidestLanes, 0);
    ASSERT_EQ(pitch / kWidestLanes % 2, 1);
  }
}

TEST(Tiling, AttentionTilesFillTheirVectorsWhereTheyCan) {
  EXPECT_EQ(temporal_attention_sites(DType::kF32, 64, 8, 32, 30, 4096),
            8);  // 240 tokens: 15 vectors of 16, none with a hole
  EXPECT_EQ(temporal_attention_sites(DType::kF32, 64, 8, 32, 30, 1), 1);
  EXPECT_GE(temporal_attention_sites(DType::kF32, 4096, 64, 256, 512, 16), 1);
}

TEST(Packing, PanelsAreBalancedAndComplete) {
  for (const auto& [lanes, most] : {std::pair{4, 2}, std::pair{8, 2}, std::pair{16, 4}}) {
    for (int n = 1; n < 600; ++n) {
      const int vectors = ceil_div(n, lanes), panels = panel_count(n, lanes, most);
      int next = 0, smallest = most, largest = 0;
      for (int p = 0; p < panels; ++p) {
        const Panel panel = panel_at(p, n, lanes, most);
        ASSERT_EQ(panel.first, next);
        next += panel.vectors;
        smallest = std::min(smallest, panel.vectors);
        largest = std::max(largest, panel.vectors);
      }
      ASSERT_EQ(next, vectors);
      ASSERT_LE(largest, most);
      ASSERT_LE(largest - smallest, 1);
    }
  }
}

}  // namespace
}  // namespace gaitcrafter
