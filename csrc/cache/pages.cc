#include "cache/pages.h"

#include <sys/mman.h>

#include <new>

namespace gaitcrafter {

Pages::~Pages() {
  if (base_ != nullptr) ::munmap(base_, size_);
}

Pages Pages::anonymous(size_t bytes) {
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  return {base, bytes, false};
}

Pages Pages::of_file(int descriptor, size_t bytes) {
  void* base = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (base == MAP_FAILED) return {};
  return {base, bytes, true};
}

void Pages::rest() const {
  if (of_file_) ::madvise(base_, size_, MADV_DONTNEED);  // read-only and shared, so nothing is lost
}

}  // namespace gaitcrafter
