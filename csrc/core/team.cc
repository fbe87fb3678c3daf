#include "core/team.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace gaitcrafter {
namespace {

using Clock = std::chrono::steady_clock;

// A waiting thread looks again and again for kSpin, so that the next region, a few microseconds away, begins at once;
// then it offers its processor to others for kYield, and then it sleeps, which costs tens of microseconds to end.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr auto kYield = std::chrono::microseconds(500);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until done(); false: the time for looking is over.
template <class Done>
bool look(const Done& done) {
  const Clock::time_point begin = Clock::now();
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause();
    }
    const auto waited = Clock::now() - begin;
    if (waited > kSpin + kYield) return false;
    if (waited > kSpin) ::sched_yield();
  }
}

constexpr uint64_t packed(int next, int end) {
  return static_cast<uint64_t>(static_cast<uint32_t>(end)) << 32 | static_cast<uint32_t>(next);
}
constexpr uint32_t next_of(uint64_t range) { return static_cast<uint32_t>(range); }
constexpr uint32_t end_of(uint64_t range) { return static_cast<uint32_t>(range >> 32); }

}  // namespace

Team::Team(std::byte* scratch, int helpers)
    : scratch_(scratch), count_(helpers + 1), seats_(std::make_unique<Seat[]>(static_cast<size_t>(count_))) {}

void Team::run_region(int parts, Work work) {
  // What a helper reads of a region it reads after taking a part of it, and the leader writes no other before that part
  // has ended: a claim may come late and then simply belongs to the next region.
  work_ = work;
  left_.store(parts, std::memory_order_relaxed);
  const int ranges = std::min({helpers() + 1, count_, parts});
  ranges_.store(ranges, std::memory_order_relaxed);
  const auto part_at = [&](int seat) { return static_cast<int>(static_cast<int64_t>(parts) * seat / ranges); };
  for (int s = 0; s < ranges; ++s)
    seats_[static_cast<size_t>(s)].range.store(packed(part_at(s), part_at(s + 1)), std::memory_order_release);
  region_.fetch_add(1, std::memory_order_release);
  region_.notify_all();
  take_parts(0, scratch_);
  await_parts();
  if (!failed_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  failed_.store(false, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(error_, nullptr));
}

// The owner takes from the front of its range, others from the back.
bool Team::claim(int seat, int& part) {
  const int ranges = ranges_.load(std::memory_order_relaxed);
  for (int k = 0; k < ranges; ++k) {
    const int owner = (seat + k) % ranges;
    std::atomic<uint64_t>& range = seats_[static_cast<size_t>(owner)].range;
    uint64_t now = range.load(std::memory_order_acquire);
    while (next_of(now) < end_of(now)) {
      const bool front = owner == seat;
      const uint64_t rest = front ? now + 1 : now - (uint64_t{1} << 32);
      if (!range.compare_exchange_weak(now, rest, std::memory_order_acquire)) continue;
      part = static_cast<int>(front ? next_of(now) : end_of(now) - 1);
      return true;
    }
  }
  return false;
}

void Team::take_parts(int seat, std::byte* scratch) {
  int part = 0;
  while (claim(seat, part)) {
    try {
      if (!failed_.load(std::memory_order_relaxed)) work_.call(work_.body, part, part + 1, scratch);
    } catch (...) {
      keep_error();
    }
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1 && seat != 0) left_.notify_one();
  }
}

void Team::keep_error() noexcept {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = std::current_exception();
  failed_.store(true, std::memory_order_relaxed);
}

void Team::await_region(uint32_t seen) const {
  if (!look([&] { return region_.load(std::memory_order_relaxed) != seen; }))
    region_.wait(seen, std::memory_order_relaxed);
}

void Team::await_parts() const {
  if (look([&] { return left_.load(std::memory_order_acquire) == 0; })) return;
  for (int left = left_.load(std::memory_order_acquire); left != 0; left = left_.load(std::memory_order_acquire))
    left_.wait(left, std::memory_order_acquire);
}

void Team::dismiss() {
  dismissed_.store(true, std::memory_order_release);
  region_.fetch_add(1, std::memory_order_release);
  region_.notify_all();
}

int Team::sit_down() {
  const std::lock_guard lock(mutex_);
  for (int s = 1; s < count_; ++s) {
    Seat& seat = seats_[static_cast<size_t>(s)];
    if (seat.taken) continue;
    seat.taken = true;
    helpers_.fetch_add(1, std::memory_order_relaxed);
    return s;
  }
  return 0;
}

void Team::stand_up(int seat) {
  const std::lock_guard lock(mutex_);
  seats_[static_cast<size_t>(seat)].taken = false;
  helpers_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace gaitcrafter
