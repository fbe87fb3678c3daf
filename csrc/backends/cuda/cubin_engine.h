// A model on the GPU by a kernel pack: whole sampler tables as CUDA graphs, no Python and no framework. A clip's bits
// do not depend on the batch it is made in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "backends/cuda/cubin_memory.h"
#include "denoiser/denoiser.h"
#include "engine/network.h"
#include "engine/request.h"

namespace gaitcrafter {

struct CubinOptions {
  int device = 0;        // CUDA's number of the GPU
  int batch = 64;        // most clips at a time; fewer if memory is short
  bool graphs = true;    // false: every launch by itself
  bool careful = false;  // every launch by itself and waited for, so that an error names its kernel
};

// Throws kModelFormat unless the kernels were exported for this model.
void check_pack(const KernelPack& pack, const UNet& host, const std::string& model_sha256);

class CubinEngine {
 public:
  // `host` is the same model on the CPU, in any precision: it works out what conditions and timesteps come to. Throws
  // what Launcher throws.
  CubinEngine(const CudaApi& api, std::shared_ptr<const KernelPack> pack, std::shared_ptr<const UNet> host,
              const CubinOptions& options);
  ~CubinEngine();

  const KernelPack& pack() const { return launcher_.pack(); }
  const std::string& chip() const { return launcher_.chip(); }

  // The clips of a checked request. One call at a time. Throws kOutOfMemory, kCancelled, kInternal.
  void generate(const GenerateRequest& request, const GenerateOutput& output,
                std::span<const ClipConditions> conditions, const SamplerTable& table, const Guidance& guidance);

  // Row by row, for the sampler's loop: batches of `clips`. The engine outlives it, and is used by nobody else
  // meanwhile.
  std::unique_ptr<BatchBackend> backend(const SamplerTable& table, const Guidance& guidance, int clips);

 private:
  class RowByRow;
  struct Run;                                                      // one call's facts
  using GraphKey = std::tuple<int, int, bool, std::vector<bool>>;  // clips, rows, dynamic limits, rows in fp32

  int largest_batch(uint64_t count, int lanes, int rows) const;
  void plan_memory(int clips, int lanes, int rows);
  void start(Run& run, int clips);
  void upload_table(const Run& run, float threshold);
  void fill(const Run& run, CubinMemory::Slot& slot, const BatchView& batch, int clips);
  void enqueue_start(const Run& run, CubinMemory::Slot& slot, bool noise_given, int clips);
  void enqueue_eval(const Run& run, int row, int clips);
  void enqueue_step(const Run& run, int row, int clips);
  void enqueue_pack(int clips);
  void enqueue_zero();
  void enqueue_rows(const Run& run, int clips);
  void enqueue_table(const Run& run, int clips);
  void enqueue_results(CubinMemory::Slot& slot, bool with_x, int clips);
  void wait(Run& run, CubinMemory::Slot& slot, uint64_t clips_done);
  size_t count_bad(const CubinMemory::Slot& slot, int real) const;
  void deliver(const Run& run, CubinMemory::Slot& slot, uint64_t first, int real);
  const GraphExecHandle& graph(const Run& run, int clips);

  Launcher launcher_;
  std::shared_ptr<const UNet> host_;
  CubinOptions options_;
  StreamHandle stream_;
  std::unique_ptr<CubinMemory> memory_;
  std::map<GraphKey, GraphExecHandle> graphs_;  // over memory_
};

}  // namespace gaitcrafter
