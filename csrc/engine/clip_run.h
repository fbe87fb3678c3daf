// One generate call: its clips, the lanes that make them, and which thread does what.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/team.h"
#include "engine/cpu_backend.h"
#include "engine/request.h"
#include "engine/shared_workspace.h"

namespace gaitcrafter {

class ClipRun {
 public:
  // The arguments outlive the run; `conditions` holds one entry per clip of the request, which is checked. Throws
  // kOutOfMemory; nothing is allocated afterwards.
  ClipRun(const GenerateRequest& request, const GenerateOutput& output, std::span<const ClipConditions> conditions,
          const Denoiser& denoiser, const SamplerTable& table, const TimeTables& time, int threads, RunTimes* times);

  int workers() const { return static_cast<int>(scratch_.size()); }

  // The part of worker 0 .. workers() - 1, each on its own thread. The first exception of one stops the others, which
  // then return.
  void work(int worker);

  void stop() { stop_.store(true, std::memory_order_relaxed); }
  Progress progress() const;

 private:
  // A clip at a time: the thread that leads makes its clips one after another, alone or with helpers.
  struct Lane {
    Lane(const CpuBackend::Parts& parts, std::byte* scratch, int helpers)
        : team(scratch, helpers), backend(parts, team, scratch) {}
    Team team;
    CpuBackend backend;
    int assigned = 0;  // helpers sent here; under mutex_
  };
  struct Free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };
  using Scratch = std::unique_ptr<std::byte, Free>;

  void lead(Lane& lane);
  void make_clip(Lane& lane, uint64_t i);
  void assist(std::byte* scratch);
  Lane* lane_to_assist();
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  const GenerateRequest& request_;
  const GenerateOutput& output_;
  std::span<const ClipConditions> conditions_;
  const SamplerTable& table_;
  size_t clip_floats_;
  std::unique_ptr<SharedWorkspace> shared_;
  std::vector<Scratch> scratch_;  // of each worker
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::mutex mutex_;
  std::atomic<uint64_t> next_{0}, steps_done_{0}, clips_done_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace gaitcrafter
