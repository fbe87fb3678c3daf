#include "engine/shared_workspace.h"

#include <sched.h>

#include <new>

namespace gaitcrafter {

SharedWorkspace::SharedWorkspace(size_t bytes) {
  if (bytes == 0) return;
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!memory_) throw std::bad_alloc();
}

SharedWorkspace::Turn::Turn(SharedWorkspace& workspace, Team& team, std::byte* scratch) : workspace_(workspace) {
  std::atomic<Team*>& holder = workspace.holder_;
  for (;;) {
    Team* now = nullptr;
    if (holder.compare_exchange_strong(now, &team, std::memory_order_acquire, std::memory_order_relaxed)) return;
    now->help(scratch, [&] { return holder.load(std::memory_order_relaxed) != now; });
    ::sched_yield();  // all seats may be taken
  }
}

SharedWorkspace::Turn::~Turn() { workspace_.holder_.store(nullptr, std::memory_order_release); }

}  // namespace gaitcrafter
