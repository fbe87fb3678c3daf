// The blocks of the network, each appending its nodes to a plan; names and order as in gaitcrafter_rt/nn/blocks.py.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "unet/plan.h"

namespace gaitcrafter {

class PlanBuilder {
 public:
  PlanBuilder(const ModelPackage& package, Precision precision, const OpTable& ops, const OpTable& fp32,
              WeightStore& store)
      : package_(package),
        config_(package.config()),
        operand_(ops.operand()),
        precision_(precision),
        store_(store),
        packer_(store, ops),
        fp32_packer_(store, fp32) {}

  // A new activation (of the precision's type, if no other is asked for), and the channels [first, first + count) of
  // one.
  Value activation(int height, int width, int channels) { return activation(height, width, channels, operand_.type); }
  Value activation(int height, int width, int channels, DType dtype);
  static Value channels_of(const Value& whole, int first, int count);

  void unshuffle(const Value& out);
  void shuffle(const Value& in);
  void positional(const Value& value);
  void conv(const std::string& name, const Value& in, const Value& out, int stride);
  void upsample(const std::string& name, const Value& in, const Value& out);
  void linear(const std::string& name, const Value& in, const Value& out, bool fp32);

  // Blocks return their output: `destination` if given, else a place of their own choice.
  using Destination = std::optional<Value>;
  Value resnet_block(const std::string& name, const Value& in, int width, bool film, Destination destination);
  Value spatial_linear_attention(const std::string& name, const Value& in, Destination destination);
  Value temporal_attention(const std::string& name, const Value& in, Destination destination);
  Value spatial_attention(const std::string& name, const Value& in, Destination destination);
  Value temporal_conv(const std::string& name, const Value& in, Destination destination);
  Value level(const std::string& name, int index, const Value& in, int width, Destination destination);

  // Keeps a tensor for plan.kept.
  void keep(const std::string& name);

  // Places the buffers; the builder is empty afterwards.
  Plan finish();

 private:
  struct Convolved {
    Value value;
    ConvGrid grid;
    int statistics;
  };

  TensorView tensor(const std::string& name) const { return package_.tensor(name); }
  int new_buffer(size_t bytes);
  AffineSlot new_affine(int channels);
  void touch(std::initializer_list<int> buffers);
  void add(const Node& node, std::initializer_list<int> buffers, double multiply_adds = 0, size_t scratch_bytes = 0);
  Convolved block_conv(const std::string& name, const Value& in, const Value& out, std::optional<AffineSlot> pending);
  AffineSlot norm_affine(const std::string& name, const Convolved& convolved, ptrdiff_t film);
  // True if the precision is int8, the convolution has calibrated ranges, and its sums fit 32 bits.
  bool quantised(const std::string& name, int channels) const;
  double projection_cost(const Value& in, int hidden) const;

  const ModelPackage& package_;
  const ModelConfig& config_;
  Plan plan_;
  OperandType operand_;
  Precision precision_;
  WeightStore& store_;
  Packer packer_, fp32_packer_;
  const float* position_bias_ = nullptr;
};

}  // namespace gaitcrafter
