// The sampler's loop on the host around an exported graph that some runtime runs: what ONNX Runtime and TensorRT share.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "backends/exported.h"
#include "engine/network.h"
#include "sampler/clip_sampler.h"

namespace gaitcrafter {

// Inputs of one call, in host memory: x [B, C, F, H, W], t [B], a weight matrix [B, labels + 1] per wired axis (null
// for others), cond [B, cond_dim] (null if the model takes none).
struct GraphInputs {
  const float* x = nullptr;
  const int64_t* t = nullptr;
  std::array<const float*, kAxes> weights{};
  const float* cond = nullptr;
};

// A graph that is ready to run.
class GraphSession {
 public:
  virtual ~GraphSession() = default;
  // `out` is like x. Throws kInternal, kOutOfMemory.
  virtual void run(const GraphInputs& inputs, float* out) = 0;
};

// Conditions of a batch as the dense arrays that a graph takes; absent labels are null (the last column, or null_cond).
class DenseConditions {
 public:
  DenseConditions(const Exported& exported, int batch);
  // Axes in `without` are null; raw vectors count only if `raw`.
  void fill(const ClipConditions* clips, const std::array<bool, kAxes>& without, bool raw);
  void point(GraphInputs& inputs) const;

 private:
  void fill_vector(const ClipConditions& clip, const std::array<bool, kAxes>& without, bool raw, float* out) const;

  const Exported& exported_;
  int batch_;
  std::array<std::vector<float>, kAxes> weights_;
  std::vector<float> cond_;
};

class GraphBackend final : public BatchBackend {
 public:
  // The arguments outlive it. `exact` is null if there is no such graph. Throws std::bad_alloc.
  GraphBackend(const Exported& exported, int batch, const SamplerTable& table, const Guidance& guidance,
               GraphSession& graph, GraphSession* exact);

  void prepare(const SamplerTable& table, const BatchView& batch) override;
  void eval(int row) override;
  void step(int row) override;
  size_t finish(float threshold, uint8_t* packed) override;
  void copy_x0(float* out) override;

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };

  const SamplerTable& table_;
  Guidance guidance_;
  GraphSession& graph_;
  GraphSession* exact_;
  size_t floats_, batch_;
  DenseConditions given_, null_;
  std::unique_ptr<std::byte, Free> memory_;
  std::vector<ClipSampler> samplers_;
  std::vector<float> x_, out_, null_out_;
  std::vector<int64_t> t_;
  size_t not_finite_ = 0;
};

}  // namespace gaitcrafter
