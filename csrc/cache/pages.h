// Whole pages of memory: anonymous, or those of a file.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace gaitcrafter {

class Pages {
 public:
  Pages() = default;
  Pages(Pages&& other) noexcept { *this = std::move(other); }
  Pages& operator=(Pages&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(of_file_, other.of_file_);
    return *this;
  }
  ~Pages();

  // Zeroed memory. Throws std::bad_alloc.
  static Pages anonymous(size_t bytes);
  // The whole of a file, read-only, shared with whoever maps it too; nothing if that fails.
  static Pages of_file(int descriptor, size_t bytes);

  // Gives back the memory of a file's pages, which the next access reads again; anonymous ones stay.
  void rest() const;

  explicit operator bool() const { return base_ != nullptr; }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(base_), size_}; }

 private:
  Pages(void* base, size_t size, bool of_file) : base_(base), size_(size), of_file_(of_file) {}

  void* base_ = nullptr;
  size_t size_ = 0;
  bool of_file_ = false;
};

}  // namespace gaitcrafter
