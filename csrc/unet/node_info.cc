#include "unet/node_info.h"

namespace gaitcrafter {
namespace {

std::string_view arithmetic_of(DType operand) {
  return operand == DType::kF32 ? "fp32" : operand == DType::kU8 ? "int8" : "bf16";
}

class Describe {
 public:
  explicit Describe(DType element) : element_(element) {}

  NodeInfo operator()(const UnshuffleNode& n) const { return at("unshuffle", n.out); }
  NodeInfo operator()(const ShuffleNode& n) const { return at("shuffle", n.in); }
  NodeInfo operator()(const PositionalNode& n) const { return at("positional embedding", n.value); }
  NodeInfo operator()(const ConvNode& n) const {
    const bool down = n.grid.stride > 1;
    NodeInfo info = at(down                 ? "downsample"
                       : n.grid.kernel == 3 ? "convolution 3x3"
                                            : "convolution",
                       down ? n.in : n.out, n.quantised ? DType::kU8 : element_);
    info.channels = n.out.channels;
    return info;
  }
  NodeInfo operator()(const UpsampleNode& n) const { return at("upsample", n.out, element_); }
  NodeInfo operator()(const AffineNode& n) const {
    return {"norm statistics", {}, n.grid.height, n.grid.width, n.slot.channels, 0};
  }
  NodeInfo operator()(const NormNode& n) const {
    if (n.shortcut.k > 0) return at("norm, SiLU, shortcut", n.out, element_);
    return at(n.residual ? "norm, SiLU, sum" : "norm, SiLU", n.out);
  }
  NodeInfo operator()(const SpatialLinearAttentionNode& n) const {
    return at("spatial linear attention", n.out, element_);
  }
  NodeInfo operator()(const TemporalAttentionNode& n) const { return at("temporal attention", n.out, element_); }
  NodeInfo operator()(const SpatialAttentionNode& n) const { return at("spatial attention", n.out, element_); }
  NodeInfo operator()(const TemporalConvNode& n) const { return at("temporal convolution", n.out, element_); }
  NodeInfo operator()(const LinearNode& n) const { return at("linear", n.out, n.fp32 ? DType::kF32 : element_); }

 private:
  static NodeInfo at(std::string_view op, const Value& v) { return {op, {}, v.height, v.width, v.channels, 0}; }
  static NodeInfo at(std::string_view op, const Value& v, DType operand) {
    NodeInfo info = at(op, v);
    info.arithmetic = arithmetic_of(operand);
    return info;
  }

  DType element_;
};

}  // namespace

std::vector<NodeInfo> node_infos(const Plan& plan, const OpTable& ops) {
  std::vector<NodeInfo> infos;
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    infos.push_back(std::visit(Describe(ops.element), plan.nodes[i]));
    infos.back().operations = plan.operations[i];
  }
  return infos;
}

}  // namespace gaitcrafter
