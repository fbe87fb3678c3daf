// Owns a plan's packed weights: arrays asked for in a fixed order, so that a second process can take them from a file.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "cache/array_layout.h"
#include "cache/pages.h"
#include "core/error.h"
#include "ops/aligned.h"

namespace gaitcrafter {

class WeightStore {
 public:
  // Every array gets memory of its own.
  WeightStore() = default;

  // No memory and no filling: what is asked for goes into `layout`. The arrays may not be read.
  static WeightStore measuring(ArrayLayout& layout) {
    WeightStore store;
    store.measured_ = &layout;
    return store;
  }

  // Arrays in one piece of memory at `offset`, laid out as measured; `filled` says that they are there already.
  WeightStore(Pages pages, size_t offset, const ArrayLayout& layout, bool filled)
      : pages_(std::move(pages)), offset_(offset), layout_(layout), filled_(filled) {}

  const Pages& pages() const { return pages_; }
  Pages take_pages() && { return std::move(pages_); }

  // 64-byte aligned and zeroed; `fill` writes it, if it is not filled already. Throws std::bad_alloc.
  template <class Fill>
  const void* array(size_t bytes, Fill fill) {
    if (measured_ != nullptr) {
      measured_->add(bytes);
      return &kNowhere;
    }
    if (pages_) {
      if (next_ >= layout_.count() || layout_.sizes()[next_] != bytes)
        throw Error(Status::kInternal, "a plan asks for other arrays than it did when it was measured");
      std::byte* at = pages_.bytes().data() + offset_ + layout_.offset(next_++);
      if (!filled_) fill(static_cast<void*>(at));
      return at;
    }
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
  alignas(ArrayLayout::kAlignment) static constexpr std::byte kNowhere[ArrayLayout::kAlignment] = {};

  std::vector<AlignedBytes> arrays_;
  ArrayLayout* measured_ = nullptr;
  Pages pages_;
  size_t offset_ = 0, next_ = 0;
  ArrayLayout layout_;
  bool filled_ = false;
};

}  // namespace gaitcrafter
