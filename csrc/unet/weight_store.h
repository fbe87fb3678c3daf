// Owns a plan's packed weights: arrays asked for in a fixed order, so that a second process can take them from a file.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "ops/aligned.h"

namespace gaitcrafter {

class WeightStore {
 public:
  // 64-byte aligned and zeroed; `fill` writes it. Throws std::bad_alloc.
  template <class Fill>
  const void* array(size_t bytes, Fill fill) {
    AlignedBytes memory(bytes);
    fill(static_cast<void*>(memory.data()));
    arrays_.push_back(std::move(memory));
    return arrays_.back().data();
  }

  template <class Fill>
  const float* floats(size_t count, Fill fill) {
    return static_cast<const float*>(
        array(count * sizeof(float), [&](void* memory) { fill(static_cast<float*>(memory)); }));
  }

 private:
  std::vector<AlignedBytes> arrays_;
};

}  // namespace gaitcrafter
