// Conditions of a request, checked against a model's vocabulary before anything is allocated.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"
#include "unet/unet.h"

namespace gaitcrafter {

// Labels of one axis for all clips: clip i has entries offsets[i] .. offsets[i+1]-1. Null pointers: null for every
// clip.
struct SparseLabels {
  const uint64_t* offsets = nullptr;
  const int32_t* labels = nullptr;
  const float* weights = nullptr;
};

struct ConditionRequest {
  std::array<SparseLabels, kAxes> axes;
  const float* cond = nullptr;          // count x cond_dim, raw
  const uint8_t* cond_given = nullptr;  // count flags; nullptr: every clip has a raw vector
};

// Whether a request may name labels of this axis: it is wired, or its labels have columns of the cond vector.
bool axis_usable(const ModelConfig& config, int axis);

// Index of `name` on an axis. Throws kInvalidRequest, naming the first labels and how many there are.
int find_label(const ModelConfig& config, int axis, std::string_view name);

// "6 labels: 000, 018, 036, ..." for messages.
std::string vocabulary_text(const ModelConfig& config, int axis);

class ConditionBatch {
 public:
  // Throws kInvalidRequest: an unusable axis, an index outside the vocabulary, a weight that is not finite, offsets
  // that do not start at 0 or decrease, more entries per clip than labels, or a raw vector where the model takes none.
  ConditionBatch(const ModelConfig& config, size_t count, const ConditionRequest& request);

  std::span<const ClipConditions> clips() const { return clips_; }

 private:
  std::array<std::vector<LabelWeight>, kAxes> entries_;
  std::vector<ClipConditions> clips_;
};

}  // namespace gaitcrafter
