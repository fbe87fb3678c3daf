// Threads that work on one thing together: a leader runs regions of independent parts, others join and leave at any
// time and take parts of them. Who takes which part is left to the moment; what a part computes may not depend on it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

namespace gaitcrafter {

class Team {
 public:
  // `scratch` is the leader's; at most `helpers` threads may help at a time. Throws std::bad_alloc; nothing is
  // allocated afterwards.
  explicit Team(std::byte* scratch, int helpers = 0);
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Leader only: body(begin, end, scratch) for ranges that together are [0, parts), each once, on this thread and on
  // those that help, each with its own scratch. Returns when all have ended; rethrows the first exception, after which
  // parts that had not begun are left out. With no helpers it is one call, body(0, parts, scratch).
  template <class Body>
  void run(int parts, const Body& body) {
    if (parts <= 1 || helpers() == 0) {
      if (parts > 0) body(0, parts, scratch_);
      return;
    }
    run_region(parts, {&body, [](const void* b, int begin, int end, std::byte* scratch) {
                         (*static_cast<const Body*>(b))(begin, end, scratch);
                       }});
  }

  // Any other thread, with scratch of its own: takes parts until the leader dismisses the team, or until `enough()`,
  // which is asked between regions, is true. Returns at once if all seats are taken.
  template <class Enough>
  void help(std::byte* scratch, const Enough& enough) {
    const int seat = sit_down();
    if (seat == 0) return;
    for (;;) {
      const uint32_t seen = region_.load(std::memory_order_acquire);
      if (dismissed_.load(std::memory_order_acquire) || enough()) break;
      take_parts(seat, scratch);
      await_region(seen);
    }
    stand_up(seat);
  }

  // Leader only, after its last region: helpers return, now and later.
  void dismiss();

  bool dismissed() const { return dismissed_.load(std::memory_order_acquire); }
  // Threads that help at this moment.
  int helpers() const { return helpers_.load(std::memory_order_relaxed); }

 private:
  struct Work {
    const void* body = nullptr;
    void (*call)(const void* body, int begin, int end, std::byte* scratch) = nullptr;
  };
  // Parts [next, end) of the current region that nobody has taken, next in the low half. Seats begin with one
  // contiguous range each, so that a thread tends to meet the data that it wrote; who has none left takes from the
  // others' ends.
  struct alignas(64) Seat {
    std::atomic<uint64_t> range{0};
    bool taken = false;  // under mutex_
  };

  void run_region(int parts, Work work);
  void take_parts(int seat, std::byte* scratch);
  bool claim(int seat, int& part);
  void await_region(uint32_t seen) const;
  void await_parts() const;
  int sit_down();
  void stand_up(int seat);
  void keep_error() noexcept;

  std::byte* scratch_;
  int count_;  // of seats; the leader has seat 0
  std::unique_ptr<Seat[]> seats_;
  Work work_;
  alignas(64) std::atomic<uint32_t> region_{0};  // counts regions; helpers wait for its change
  alignas(64) std::atomic<int> left_{0};         // parts of the region that have not ended
  alignas(64) std::atomic<int> ranges_{0};       // seats that had parts in this region
  std::atomic<int> helpers_{0};
  std::atomic<bool> dismissed_{false}, failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace gaitcrafter
