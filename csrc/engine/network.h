// A network that runs outside the native CPU code, on a runtime or device of its own: it takes batches of one fixed
// size.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "denoiser/denoiser.h"
#include "engine/options.h"
#include "engine/request.h"
#include "sampler/backend.h"

namespace gaitcrafter {

// Who runs a network, and what. Batch and sha256 belong to a clip's identity: runtimes choose algorithms by shape, so
// that the same network gives other bits in batches of another size.
struct NetworkIdentity {
  std::string backend, device, precision;
  int batch = 1;        // clips per call; a shorter batch is padded, so that a clip's bits do not depend on the others
  std::string sha256;   // of what runs: graph, engine or kernels; hex
  std::string runtime;  // name and version of the library that runs it
};

class BatchBackend : public Backend {
 public:
  // x_0 of all clips after finish: batch x clip_floats values.
  virtual void copy_x0(float* out) = 0;
};

class Network {
 public:
  virtual ~Network() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const std::string& model_sha256() const = 0;
  virtual const NetworkIdentity& identity() const = 0;

  // For runs of `table`, which outlives it; every batch given to prepare has identity().batch clips, checked. One
  // backend at a time. Threads and device contexts are made here at the earliest: a process may open a network and fork
  // before.
  virtual std::unique_ptr<BatchBackend> start(const SamplerTable& table, const Guidance& guidance) = 0;

  // All clips of a checked request, of which each has conditions: batch after batch (batch_run.h), unless the network
  // has a better way. Throws kCancelled, kOutOfMemory, kInternal.
  virtual void generate(const GenerateRequest& request, const GenerateOutput& output,
                        std::span<const ClipConditions> conditions, const SamplerTable& table,
                        const Guidance& guidance);
};

// Whether `backend` names one (backends/open.cc); "native" does not, it is the engine itself.
bool is_network_backend(const std::string& backend);

// Opens a model on options.backend. Throws kInvalidRequest for options that the backend does not take, kCapability if
// it is not in this build or cannot run here, kMissingExtra if its library is absent, kModelFormat.
std::unique_ptr<Network> open_network(const std::string& path, const EngineOptions& options);

}  // namespace gaitcrafter
