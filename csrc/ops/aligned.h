// Memory for weights and workspaces: 64-byte aligned, zeroed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace gaitcrafter {

struct FreeAligned {
  void operator()(std::byte* p) const noexcept { std::free(p); }
};

class AlignedBytes {
 public:
  AlignedBytes() = default;
  // Throws std::bad_alloc.
  explicit AlignedBytes(size_t bytes) : size_(bytes) {
    const size_t whole = std::max<size_t>((bytes + 63) / 64 * 64, 64);
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, whole)));
    if (!data_) throw std::bad_alloc();
    std::fill_n(data_.get(), whole, std::byte{0});
  }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte[], FreeAligned> data_;
  size_t size_ = 0;
};

class AlignedFloats {
 public:
  AlignedFloats() = default;
  // Throws std::bad_alloc.
  explicit AlignedFloats(size_t count) : bytes_(count * sizeof(float)) {}
  float* data() { return reinterpret_cast<float*>(bytes_.data()); }
  const float* data() const { return reinterpret_cast<const float*>(bytes_.data()); }
  size_t size() const { return bytes_.size() / sizeof(float); }

 private:
  AlignedBytes bytes_;
};

}  // namespace gaitcrafter
