#include "backends/graph_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.h"
#include "engine/cpu_backend.h"  // kExactAmplification
#include "sampler/pack.h"

namespace gaitcrafter {
namespace {

constexpr std::array<bool, kAxes> kNoAxis{};

size_t clip_floats(const ModelConfig& c) {
  return size_t(c.unet.channels) * size_t(c.clip.frames) * size_t(c.clip.height) * size_t(c.clip.width);
}

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

DenseConditions::DenseConditions(const Exported& exported, int batch) : exported_(exported), batch_(batch) {
  const Conditioning& c = exported.config.conditioning;
  const size_t rows = static_cast<size_t>(batch);
  for (size_t a = 0; a < kAxes; ++a) {
    if (c.wiring[a] != Wiring::kNone) weights_[a].resize(rows * (exported.config.labels[a].size() + 1));
  }
  cond_.resize(rows * static_cast<size_t>(c.cond_dim));
}

void DenseConditions::fill(const ClipConditions* clips, const std::array<bool, kAxes>& without, bool raw) {
  for (size_t a = 0; a < kAxes; ++a) {
    if (weights_[a].empty()) continue;
    const size_t columns = exported_.config.labels[a].size() + 1;
    std::fill(weights_[a].begin(), weights_[a].end(), 0.0f);
    for (size_t k = 0; k < static_cast<size_t>(batch_); ++k) {
      float* row = weights_[a].data() + k * columns;
      if (without[a] || clips[k].axes[a].empty()) {
        row[columns - 1] = 1.0f;
        continue;
      }
      for (const LabelWeight& w : clips[k].axes[a]) row[w.index] += w.weight;
    }
  }
  const size_t dim = exported_.null_cond.size();
  for (size_t k = 0; dim > 0 && k < static_cast<size_t>(batch_); ++k)
    fill_vector(clips[k], without, raw, cond_.data() + k * dim);
}

void DenseConditions::fill_vector(const ClipConditions& clip, const std::array<bool, kAxes>& without, bool raw,
                                  float* out) const {
  const Conditioning& c = exported_.config.conditioning;
  const size_t dim = exported_.null_cond.size();
  if (raw && clip.cond != nullptr) {
    std::copy_n(clip.cond, dim, out);
    return;
  }
  bool named = false;
  for (size_t a = 0; a < kAxes; ++a) named = named || (!without[a] && !clip.axes[a].empty());
  if (!named) {
    std::copy_n(exported_.null_cond.data(), dim, out);
    return;
  }
  std::fill_n(out, dim, 0.0f);
  for (size_t a = 0; a < kAxes; ++a) {
    if (without[a]) continue;
    for (const LabelWeight& w : clip.axes[a]) out[c.cond_columns[a][static_cast<size_t>(w.index)]] += w.weight;
  }
}

void DenseConditions::point(GraphInputs& inputs) const {
  for (size_t a = 0; a < kAxes; ++a) inputs.weights[a] = weights_[a].empty() ? nullptr : weights_[a].data();
  inputs.cond = cond_.empty() ? nullptr : cond_.data();
}

GraphBackend::GraphBackend(const Exported& exported, int batch, const SamplerTable& table, const Guidance& guidance,
                           GraphSession& graph, GraphSession* exact)
    : table_(table),
      guidance_(guidance),
      graph_(graph),
      exact_(exact),
      floats_(clip_floats(exported.config)),
      batch_(static_cast<size_t>(batch)),
      given_(exported, batch),
      null_(exported, batch),
      x_(batch_ * floats_),
      out_(batch_ * floats_),
      null_out_(guidance.scale != 0.0 && guidance.scale != 1.0 ? batch_ * floats_ : 0),
      t_(batch_) {
  const size_t each = aligned(ClipSampler::workspace_bytes(table, floats_));
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(64, batch_ * each)));
  if (!memory_) throw std::bad_alloc();
  samplers_.reserve(batch_);
  for (size_t k = 0; k < batch_; ++k) samplers_.emplace_back(table, floats_, memory_.get() + k * each);
}

void GraphBackend::prepare(const SamplerTable& table, const BatchView& batch) {
  if (&table != &table_ || static_cast<size_t>(batch.clips) != batch_)
    throw Error(Status::kInternal, "a graph backend runs its own batch of its own table");
  not_finite_ = 0;
  if (guidance_.scale != 0.0) given_.fill(batch.conditions, kNoAxis, true);
  if (guidance_.scale != 1.0) null_.fill(batch.conditions, guidance_.null_axes, false);
  for (size_t k = 0; k < batch_; ++k) {
    samplers_[k].start(batch.seeds[k], batch.clip_indices[k]);
    if (batch.initial_noise != nullptr) std::copy_n(batch.initial_noise + k * floats_, floats_, samplers_[k].x());
  }
}

void GraphBackend::eval(int row) {
  const SamplerRow& r = table_.rows[static_cast<size_t>(row)];
  GraphSession& graph = exact_ != nullptr && std::fabs(r.a_out) > kExactAmplification ? *exact_ : graph_;
  for (size_t k = 0; k < batch_; ++k) std::copy_n(samplers_[k].x(), floats_, x_.data() + k * floats_);
  std::fill(t_.begin(), t_.end(), int64_t{r.t});
  GraphInputs inputs;
  inputs.x = x_.data();
  inputs.t = t_.data();
  if (guidance_.scale != 0.0) {
    given_.point(inputs);
    graph.run(inputs, out_.data());
  }
  if (guidance_.scale == 1.0) return;
  null_.point(inputs);
  if (guidance_.scale == 0.0) {
    graph.run(inputs, out_.data());
    return;
  }
  graph.run(inputs, null_out_.data());
  const float scale = static_cast<float>(guidance_.scale);
  for (size_t i = 0; i < out_.size(); ++i) out_[i] = null_out_[i] + (out_[i] - null_out_[i]) * scale;
}

void GraphBackend::step(int row) {
  for (size_t k = 0; k < batch_; ++k) not_finite_ += samplers_[k].step(row, out_.data() + k * floats_);
}

size_t GraphBackend::finish(float threshold, uint8_t* packed) {
  size_t bad = not_finite_;
  for (size_t k = 0; k < batch_; ++k)
    bad += pack_clip(samplers_[k].x(), floats_, threshold, packed + k * packed_bytes(floats_));
  return bad;
}

void GraphBackend::copy_x0(float* out) {
  for (size_t k = 0; k < batch_; ++k) std::copy_n(samplers_[k].x(), floats_, out + k * floats_);
}

}  // namespace gaitcrafter
