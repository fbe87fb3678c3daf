#include "engine/cpu_backend.h"

#include <cmath>
#include <new>

#include "core/error.h"
#include "sampler/pack.h"

namespace gaitcrafter {

namespace {

constexpr size_t kAlign = 64;

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

size_t CpuBackend::lane_bytes(const Denoiser& denoiser, const SamplerTable& table) {
  return aligned(ClipSampler::workspace_bytes(table, denoiser.clip_floats())) +
         aligned(denoiser.state_floats() * sizeof(float)) + aligned(denoiser.clip_floats() * sizeof(float)) +
         aligned(denoiser.workspace_bytes());
}

CpuBackend::CpuBackend(const Denoiser& denoiser, const SamplerTable& table, const TimeTables& time)
    : denoiser_(denoiser), table_(table), time_(time) {
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, lane_bytes(denoiser, table))));
  if (!memory_) throw std::bad_alloc();
  std::byte* at = memory_.get();
  sampler_.emplace(table, denoiser.clip_floats(), at);
  at += aligned(ClipSampler::workspace_bytes(table, denoiser.clip_floats()));
  state_ = reinterpret_cast<float*>(at);
  at += aligned(denoiser.state_floats() * sizeof(float));
  out_ = reinterpret_cast<float*>(at);
  scratch_ = at + aligned(denoiser.clip_floats() * sizeof(float));
}

void CpuBackend::prepare(const SamplerTable& table, const BatchView& batch) {
  if (&table != &table_ || batch.clips != 1) throw Error(Status::kInternal, "a CPU lane runs one clip of one table");
  not_finite_ = 0;
  denoiser_.prepare(batch.conditions[0], state_, scratch_);
  sampler_->start(batch.seeds[0], batch.clip_indices[0]);
}

void CpuBackend::eval(int row) {
  const bool exact = std::fabs(table_.rows[static_cast<size_t>(row)].a_out) > kExactAmplification;
  denoiser_.eval(sampler_->x(), time_, row, state_, out_, scratch_, exact);
}

void CpuBackend::step(int row) { not_finite_ += sampler_->step(row, out_); }

size_t CpuBackend::finish(float threshold, uint8_t* packed) {
  return not_finite_ + pack_clip(sampler_->x(), denoiser_.clip_floats(), threshold, packed);
}

}  // namespace gaitcrafter
