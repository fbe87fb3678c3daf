#include "engine/clip_run.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "sampler/pack.h"

namespace gaitcrafter {
namespace {

std::string mebibytes(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

// Dismisses a team however its leader leaves.
class Dismissal {
 public:
  explicit Dismissal(Team& team) : team_(team) {}
  Dismissal(const Dismissal&) = delete;
  ~Dismissal() { team_.dismiss(); }

 private:
  Team& team_;
};

}  // namespace

ClipRun::ClipRun(const GenerateRequest& request, const GenerateOutput& output,
                 std::span<const ClipConditions> conditions, const Denoiser& denoiser, const SamplerTable& table,
                 const TimeTables& time, int threads, RunTimes* times)
    : request_(request), output_(output), conditions_(conditions), table_(table), clip_floats_(denoiser.clip_floats()) {
  const uint64_t wanted = request.mode == Mode::kLatency ? 1 : request.count;
  const size_t lanes = static_cast<size_t>(std::min<uint64_t>(wanted, static_cast<uint64_t>(threads)));
  const size_t workers = request.mode == Mode::kThroughput ? lanes : static_cast<size_t>(threads);
  const size_t scratch_bytes = denoiser.scratch_bytes();
  try {
    shared_ = std::make_unique<SharedWorkspace>(denoiser.shared_bytes());
    for (size_t i = 0; i < workers; ++i) {
      scratch_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(64, scratch_bytes)));
      if (!scratch_.back()) throw std::bad_alloc();
    }
    const CpuBackend::Parts parts{denoiser, table, time, *shared_, times};
    for (size_t i = 0; i < lanes; ++i)
      lanes_.push_back(std::make_unique<Lane>(parts, scratch_[i].get(), static_cast<int>(workers) - 1));
  } catch (const std::bad_alloc&) {
    const size_t lane = CpuBackend::lane_bytes(denoiser, table);
    throw Error(Status::kOutOfMemory,
                "generating needs " + mebibytes(lane + scratch_bytes) + " per clip made at once and " +
                    mebibytes(lane * lanes + scratch_bytes * workers + denoiser.shared_bytes()) + " for " +
                    std::to_string(workers) + " threads, which is not free; use fewer threads or mode latency");
  }
}

Progress ClipRun::progress() const {
  return {steps_done_.load(), request_.count * static_cast<uint64_t>(table_.size()), clips_done_.load(),
          request_.count};
}

void ClipRun::work(int worker) {
  const size_t i = static_cast<size_t>(worker);
  try {
    if (i < lanes_.size()) lead(*lanes_[i]);
    if (request_.mode != Mode::kThroughput) assist(scratch_[i].get());
  } catch (...) {
    stop();  // the other threads need not finish what is lost
    throw;
  }
}

void ClipRun::lead(Lane& lane) {
  const Dismissal dismissal(lane.team);
  while (!stopped()) {
    const uint64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= request_.count) return;
    make_clip(lane, i);
  }
}

void ClipRun::make_clip(Lane& lane, uint64_t i) {
  CpuBackend& backend = lane.backend;
  const uint64_t clip = request_.clip_indices != nullptr ? request_.clip_indices[i] : request_.start + i;
  backend.prepare(table_, BatchView{1, &request_.seed, &clip, &conditions_[i]});
  if (request_.initial_noise != nullptr)
    std::memcpy(backend.x(), request_.initial_noise + i * clip_floats_, clip_floats_ * sizeof(float));
  for (int row = 0; row < table_.size(); ++row) {
    if (stopped()) return;
    backend.eval(row);
    backend.step(row);
    steps_done_.fetch_add(1, std::memory_order_relaxed);
  }
  const size_t bad = backend.finish(request_.threshold, output_.packed.data() + i * packed_bytes(clip_floats_));
  if (bad > 0) {
    throw Error(Status::kInternal, "clip " + std::to_string(clip) + ": " + std::to_string(bad) +
                                       " values of the network were not finite; the weights or the condition "
                                       "weights are far outside what the model was trained on");
  }
  if (!output_.x0.empty()) std::memcpy(output_.x0.data() + i * clip_floats_, backend.x(), clip_floats_ * sizeof(float));
  clips_done_.fetch_add(1, std::memory_order_relaxed);
}

// Threads without a clip help those that have one, until none is left.
void ClipRun::assist(std::byte* scratch) {
  while (Lane* lane = lane_to_assist()) {
    lane->team.help(scratch, [this] { return stopped(); });
    const std::lock_guard lock(mutex_);
    --lane->assigned;
  }
}

ClipRun::Lane* ClipRun::lane_to_assist() {
  const std::lock_guard lock(mutex_);
  Lane* best = nullptr;
  for (const auto& lane : lanes_)
    if (!lane->team.dismissed() && (best == nullptr || lane->assigned < best->assigned)) best = lane.get();
  if (best == nullptr || stopped()) return nullptr;
  ++best->assigned;
  return best;
}

}  // namespace gaitcrafter
