#include "unet/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/config.h"
#include "testing/packages.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

// A plan from shapes alone, without weights.
Plan measured(const ModelConfig& config, Precision precision, ArrayLayout& layout) {
  WeightStore store = WeightStore::measuring(layout);
  return build_plan(*shapes_only(config, ""), precision, op_table(Isa::kAvx512, precision),
                    op_table(Isa::kAvx512, Precision::kFp32), store);
}

// Widths that the config allows and whose int8 sums would pass 2^31: 4096 channels and as many of a skip.
TEST(Plan, AConvolutionWhoseSumsPass32BitsStaysInBf16) {
  if (!precision_supported(Precision::kInt8, Isa::kAvx512)) GTEST_SKIP() << "this processor has no int8 products";
  const ModelConfig config = parse_config(R"({"format": "gaitcrafter-model", "name": "wide", "format_version": 2,
 "clip": {"frames": 2, "height": 8, "width": 8},
 "unet": {"dim": 64, "init_dim": 64, "dim_mults": [1, 64], "blocks_per_level": 1, "norm_groups": 8,
          "attention_heads": 1, "attention_dim_head": 4, "linear_heads": 1, "linear_dim_head": 4,
          "spatial_linear_attention": [false, false], "temporal_attention": [false, false],
          "temporal_conv": [false, false], "rotary_dim": 4, "position_buckets": 8, "position_max_distance": 4},
 "quantisation": {"layers": ["ups.0.blocks.0.conv1", "mid_block1.conv1"], "clips": 1}})",
                                          "wide");
  ArrayLayout layout;
  const Plan plan = measured(config, Precision::kInt8, layout);
  int wide = 0, quantised = 0;
  for (const Node& node : plan.nodes) {
    const auto* conv = std::get_if<ConvNode>(&node);
    if (conv == nullptr) continue;
    if (conv->quantised) {
      ++quantised;
      EXPECT_EQ(conv->in.channels, 4096);
    }
    if (conv->in.channels == 8192) ++wide;
  }
  EXPECT_EQ(wide, 1);
  EXPECT_EQ(quantised, 1);
}

TEST(Plan, TheBoundOfInt8SumsIsTheLargestThatFits) {
  constexpr int64_t kMost = int64_t{9} * 255 * 127;
  EXPECT_LE(kMost * kMaxQuantisedChannels, INT32_MAX);
  EXPECT_GT(kMost * (kMaxQuantisedChannels + 1), INT32_MAX);
  if (!precision_supported(Precision::kInt8, Isa::kAvx512)) return;
  WeightStore store;
  const Packer packer(store, op_table(Isa::kAvx512, Precision::kInt8));
  const int64_t channels = kMaxQuantisedChannels + 1;
  const TensorView weight{nullptr, {1, channels, 3, 3}}, range{nullptr, {channels}};
  EXPECT_ERROR(pack_quantised_conv(packer, weight, range, range), kCapability, "7368 input channels");
}

// At the bound the largest sums there can be are exact.
TEST(Plan, SumsAtTheBoundAreExact) {
  if (!precision_supported(Precision::kInt8, Isa::kAvx512)) GTEST_SKIP() << "this processor has no int8 products";
  WeightStore store;
  const Packer packer(store, op_table(Isa::kAvx512, Precision::kInt8));
  const size_t channels = kMaxQuantisedChannels;
  const std::vector<float> ones(channels * 9, 1.0f), low(channels, -255.0f), high(channels, 0.0f);
  const TensorView weight{ones.data(), {1, static_cast<int64_t>(channels), 3, 3}};
  const auto range = [&](const std::vector<float>& v) {
    return TensorView{v.data(), {static_cast<int64_t>(channels)}};
  };
  const QuantisedConv q = pack_quantised_conv(packer, weight, range(low), range(high));
  EXPECT_EQ(q.arrays.start[0], -int64_t{9} * 255 * 127 * kMaxQuantisedChannels);
}

// The three ways to build a plan ask for the same arrays.
TEST(Plan, AsksForTheSameArraysWithAndWithoutValues) {
  for (const char* name : {"tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps"}) {
    const auto package = ModelPackage::open(testing::fixture(name));
    ArrayLayout from_shapes, from_values;
    const OpTable& ops = op_table(Isa::kPortable, Precision::kFp32);
    for (auto [source, layout] :
         {std::pair{shapes_only(package->config(), ""), &from_shapes}, {package, &from_values}}) {
      WeightStore store = WeightStore::measuring(*layout);
      build_plan(*source, Precision::kFp32, ops, ops, store);
    }
    EXPECT_EQ(from_shapes.sizes(), from_values.sizes()) << name;
    ArrayLayout shorter;
    for (size_t i = 0; i + 1 < from_shapes.count(); ++i) shorter.add(from_shapes.sizes()[i]);
    WeightStore store(Pages::anonymous(from_shapes.bytes()), 0, shorter, true);
    EXPECT_ERROR(build_plan(*package, Precision::kFp32, ops, ops, store), kInternal, "other arrays");
  }
}

}  // namespace
}  // namespace gaitcrafter
