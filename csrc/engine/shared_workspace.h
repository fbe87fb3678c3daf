// Memory that the lanes of a run take turns with, for calls that need more than a lane has.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <memory>

#include "core/team.h"

namespace gaitcrafter {

class SharedWorkspace {
 public:
  // Throws std::bad_alloc. `bytes` may be 0.
  explicit SharedWorkspace(size_t bytes);

  // Holds the memory while it lives. Whoever finds it taken helps the team that has it until it is free, so that no
  // thread waits; `scratch` is for that.
  class Turn {
   public:
    Turn(SharedWorkspace& workspace, Team& team, std::byte* scratch);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    SharedWorkspace& workspace_;
  };

  std::byte* data() { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::atomic<Team*> holder_{nullptr};
};

}  // namespace gaitcrafter
