// Where arrays of known sizes lie one after the other.
#pragma once

#include <cstddef>
#include <vector>

namespace gaitcrafter {

class ArrayLayout {
 public:
  static constexpr size_t kAlignment = 64;

  void add(size_t bytes) {
    sizes_.push_back(bytes);
    offsets_.push_back(bytes_);
    bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  size_t count() const { return sizes_.size(); }
  size_t bytes() const { return bytes_; }
  size_t offset(size_t i) const { return offsets_.at(i); }
  const std::vector<size_t>& sizes() const { return sizes_; }

 private:
  std::vector<size_t> sizes_, offsets_;
  size_t bytes_ = 0;
};

}  // namespace gaitcrafter
