// Whole pages of memory: anonymous, or those of a file.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace gaitcrafter {

class Pages {
 public:
  Pages() = default;
  Pages(Pages&& other) noexcept : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Pages();

  // Zeroed memory. Throws std::bad_alloc.
  static Pages anonymous(size_t bytes);
  // The whole of a file, read-only, shared with whoever maps it too; nothing if that fails.
  static Pages of_file(int descriptor, size_t bytes);

  explicit operator bool() const { return base_ != nullptr; }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(base_), size_}; }

 private:
  Pages(void* base, size_t size) : base_(base), size_(size) {}

  void* base_ = nullptr;
  size_t size_ = 0;
};

}  // namespace gaitcrafter
