// What a device implements so that the sampler's loop can drive it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampler/table.h"

namespace gaitcrafter {

struct ClipConditions;  // unet/unet.h

// A batch, one entry of each array per clip. Backends read these through the pointers when a run starts, so that a
// captured graph can run again with other contents.
struct BatchView {
  int clips = 0;
  const uint64_t* seeds = nullptr;
  const uint64_t* clip_indices = nullptr;
  const ClipConditions* conditions = nullptr;
  const float* initial_noise = nullptr;  // x_T of all clips in place of stream 0; engine/network.h alone sets it
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Takes conditions in, draws x_T, plans memory if the table's needs grew. Both arguments outlive the run.
  virtual void prepare(const SamplerTable& table, const BatchView& batch) = 0;

  // Guided model output of all clips at rows[row].t.
  virtual void eval(int row) = 0;

  // Applies rows[row] to all clips (step.h).
  virtual void step(int row) = 0;

  // Thresholds x_0 and packs each clip into packed_bytes(pixels) bytes, one after another (pack.h). Returns how many
  // values of the whole run (model outputs and x_0) were not finite: more than 0 means the clips are not to be trusted.
  virtual size_t finish(float threshold, uint8_t* packed) = 0;
};

}  // namespace gaitcrafter
