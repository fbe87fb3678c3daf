// The U-Net of one model on one instruction set: immutable packed weights, shared by all threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/isa.h"
#include "core/precision.h"
#include "core/stopwatch.h"
#include "core/team.h"
#include "model/package.h"
#include "unet/memory.h"

namespace gaitcrafter {

struct LabelWeight {
  int32_t index;
  float weight;
};

// Conditions of one clip. An empty axis is null. `cond` (cond_dim floats) is the base network's vector; nullptr is its
// null.
struct ClipConditions {
  std::array<std::span<const LabelWeight>, kAxes> axes;
  const float* cond = nullptr;
};

// FiLM terms of every block for every timestep of a run; depends on the timesteps alone.
class TimeTables {
 public:
  virtual ~TimeTables() = default;
};

// True if the network's widths suit a precision: bf16 multiplies channels in pairs.
bool widths_suit(const UNetConfig& config, Precision precision);

// UNet::flops() of a network without its weights.
double network_flops(const ModelConfig& config);

// Where packed weights lie: in memory of their own, or in a file of the cache that was there or was written now.
enum class WeightsFrom { kMemory, kWritten, kCache };

class WeightsSource;

// Where the activations of a call lie: a placement that place() gave, and memory for its own_bytes() and
// shared_bytes(), 64-byte aligned.
struct ForwardMemory {
  const Placement* placement = nullptr;
  std::byte* own = nullptr;
  std::byte* shared = nullptr;
};

// What profiles say of a node: the op, the arithmetic of its products ("fp32", "bf16", "int8"; "" for none), the larger
// of its two resolutions, its output channels, and the operations of one call, 2 x multiply-adds, counted as if every
// convolution were direct.
struct NodeInfo {
  std::string_view op, arithmetic;
  int height = 0, width = 0, channels = 0;
  double operations = 0;
};

using NodeTimes = std::vector<PartTime>;  // one per node

class UNet {
 public:
  // Packs in memory. The package is not needed afterwards. Throws kCapability if this processor lacks the instruction
  // set or the precision, or the widths do not suit it.
  static std::shared_ptr<const UNet> create(const std::shared_ptr<const ModelPackage>& package, Isa isa,
                                            Precision precision = Precision::kFp32);
  // Takes packed weights from the cache or writes them to it, where there is one.
  static std::shared_ptr<const UNet> create(WeightsSource& source, Isa isa, Precision precision);
  virtual ~UNet() = default;

  virtual const ModelConfig& config() const = 0;
  virtual Isa isa() const = 0;
  virtual Precision precision() const = 0;
  virtual WeightsFrom weights_from() const = 0;

  virtual std::shared_ptr<const TimeTables> prepare_time(std::span<const int32_t> timesteps) const = 0;

  // What a clip's conditions come to (input maps and FiLM terms), `condition_floats()` floats.
  virtual size_t condition_floats() const = 0;
  virtual void prepare_conditions(const ClipConditions& conditions, float* state) const = 0;

  // Scratch of every thread that takes part in a call, 64-byte aligned.
  virtual size_t scratch_bytes() const = 0;

  // Activations in one workspace, or in two of which the first has at most `own` bytes, a multiple of kMemoryAlignment.
  virtual Placement place(size_t own = SIZE_MAX) const = 0;

  // One network call for one clip at timestep `timesteps[step]`, by `team`, whose leader calls. `x` and `out` are
  // channels x frames x height x width, contiguous; they may not overlap. Allocates nothing. `times`, if given, has one
  // entry per node; times are the leader's.
  virtual void forward(const float* x, const TimeTables& time, int step, const float* condition_state, float* out,
                       const ForwardMemory& memory, Team& team, NodeTimes* times = nullptr) const = 0;

  // The nodes in the order in which they run.
  virtual std::vector<NodeInfo> nodes() const = 0;

  // Gives back the memory of weights that a file of the cache holds; the next call reads them again. For a network that
  // is not used for a while.
  virtual void rest() const = 0;

  // 2 x multiply-adds of convolutions, linear layers and attention products in one call.
  virtual double flops() const = 0;
};

}  // namespace gaitcrafter
