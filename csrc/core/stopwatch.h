// Wall time of the parts of a run, summed over calls; threads may add to one at the same time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace gaitcrafter {

struct PartTime {
  std::atomic<uint64_t> nanoseconds{0}, calls{0};
};

// Adds the time between its construction and its end; null: does nothing.
class Stopwatch {
 public:
  explicit Stopwatch(PartTime* part) : part_(part) {
    if (part_ != nullptr) begin_ = std::chrono::steady_clock::now();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    if (part_ == nullptr) return;
    const auto spent = std::chrono::steady_clock::now() - begin_;
    const auto count = std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
    part_->nanoseconds.fetch_add(static_cast<uint64_t>(count), std::memory_order_relaxed);
    part_->calls.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  PartTime* part_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace gaitcrafter
