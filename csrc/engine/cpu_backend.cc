#include "engine/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "core/error.h"
#include "sampler/pack.h"

namespace gaitcrafter {

namespace {

constexpr size_t kAlign = 64;
constexpr size_t kPackedAtOnce = 8192;  // values that one thread packs at a time; whole bytes of bits

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

size_t CpuBackend::lane_bytes(const Denoiser& denoiser, const SamplerTable& table) {
  return aligned(ClipSampler::workspace_bytes(table, denoiser.clip_floats())) +
         aligned(denoiser.state_floats() * sizeof(float)) + aligned(denoiser.clip_floats() * sizeof(float)) +
         aligned(denoiser.own_bytes());
}

CpuBackend::CpuBackend(const Parts& parts, Team& team, std::byte* scratch)
    : parts_(parts), team_(team), scratch_(scratch) {
  const Denoiser& denoiser = parts.denoiser;
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, lane_bytes(denoiser, parts.table))));
  if (!memory_) throw std::bad_alloc();
  std::byte* at = memory_.get();
  sampler_.emplace(parts.table, denoiser.clip_floats(), at);
  at += aligned(ClipSampler::workspace_bytes(parts.table, denoiser.clip_floats()));
  state_ = reinterpret_cast<float*>(at);
  at += aligned(denoiser.state_floats() * sizeof(float));
  out_ = reinterpret_cast<float*>(at);
  own_ = at + aligned(denoiser.clip_floats() * sizeof(float));
}

void CpuBackend::prepare(const SamplerTable& table, const BatchView& batch) {
  if (&table != &parts_.table || batch.clips != 1)
    throw Error(Status::kInternal, "a CPU lane runs one clip of one table");
  not_finite_ = 0;
  {
    const Stopwatch watch(parts_.times ? &parts_.times->conditions : nullptr);
    parts_.denoiser.prepare(batch.conditions[0], state_, own_);
  }
  const Stopwatch watch(parts_.times ? &parts_.times->noise : nullptr);
  sampler_->start(batch.seeds[0], batch.clip_indices[0], team_);
}

void CpuBackend::eval(int row) {
  const bool exact = std::fabs(parts_.table.rows[static_cast<size_t>(row)].a_out) > kExactAmplification;
  const auto call = [&](std::byte* shared) {
    parts_.denoiser.eval(sampler_->x(), parts_.time, row, state_, out_, {own_, shared}, team_, exact,
                         parts_.times ? &parts_.times->denoiser : nullptr);
  };
  if (!exact || parts_.denoiser.shared_bytes() == 0) {
    call(nullptr);
    return;
  }
  const SharedWorkspace::Turn turn(parts_.shared, team_, scratch_);
  call(parts_.shared.data());
}

void CpuBackend::step(int row) {
  const Stopwatch watch(parts_.times ? &parts_.times->sampler : nullptr);
  not_finite_ += sampler_->step(row, out_, team_);
}

size_t CpuBackend::finish(float threshold, uint8_t* packed) {
  const Stopwatch watch(parts_.times ? &parts_.times->pack : nullptr);
  const size_t n = parts_.denoiser.clip_floats();
  std::atomic<size_t> bad{not_finite_};
  team_.run(static_cast<int>((n + kPackedAtOnce - 1) / kPackedAtOnce), [&](int begin, int end, std::byte*) {
    const size_t first = static_cast<size_t>(begin) * kPackedAtOnce;
    const size_t last = std::min(static_cast<size_t>(end) * kPackedAtOnce, n);
    bad.fetch_add(pack_clip(sampler_->x() + first, last - first, threshold, packed + first / 8),
                  std::memory_order_relaxed);
  });
  return bad.load();
}

}  // namespace gaitcrafter
