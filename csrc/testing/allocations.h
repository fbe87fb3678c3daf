// Counts what a test program allocates with new, to show that a loop allocates nothing. For one source file of a
// program: it replaces operator new.
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>

namespace gaitcrafter::testing {
inline std::atomic<long> allocations{0};
// Sanitizers bring an operator new of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kCounting = false;
#else
inline constexpr bool kCounting = true;
#endif
}  // namespace gaitcrafter::testing

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // malloc and free are this pair's own
void* operator new(size_t bytes) {
  ++gaitcrafter::testing::allocations;
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
#endif
