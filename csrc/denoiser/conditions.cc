#include "denoiser/conditions.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"

namespace gaitcrafter {

namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }

std::string clip_text(size_t clip, int axis) {
  return "clip " + std::to_string(clip) + ": " + std::string(kAxisNames[axis]);
}

void check_axis(const ModelConfig& config, size_t count, const SparseLabels& list, int axis) {
  const std::string name(kAxisNames[axis]);
  if (list.offsets == nullptr) {
    if (list.labels != nullptr || list.weights != nullptr) refuse(name + " labels are given without offsets");
    return;
  }
  if (list.offsets[0] != 0)
    refuse(name + " offsets begin at " + std::to_string(list.offsets[0]) + "; they must begin at 0");
  const size_t labels = config.labels[axis].size();
  for (size_t i = 0; i < count; ++i) {
    const uint64_t begin = list.offsets[i], end = list.offsets[i + 1];
    if (end < begin)
      refuse(clip_text(i, axis) + " offsets decrease from " + std::to_string(begin) + " to " + std::to_string(end));
    if (end == begin) continue;
    if (!axis_usable(config, axis)) {
      refuse(clip_text(i, axis) + " labels are given, but this model takes none (" +
             (labels == 0 ? "it has no such axis" : "its labels are not wired to the network") + ")");
    }
    if (list.labels == nullptr || list.weights == nullptr)
      refuse(name + " offsets are given without labels and weights");
    if (end - begin > labels) {
      refuse(clip_text(i, axis) + " has " + std::to_string(end - begin) + " entries; the axis has " +
             vocabulary_text(config, axis));
    }
    for (uint64_t k = begin; k < end; ++k) {
      if (list.labels[k] < 0 || static_cast<size_t>(list.labels[k]) >= labels) {
        refuse(clip_text(i, axis) + " index " + std::to_string(list.labels[k]) + " is outside 0.." +
               std::to_string(labels - 1) + " (" + vocabulary_text(config, axis) + ")");
      }
      if (!std::isfinite(list.weights[k])) refuse(clip_text(i, axis) + " weight is not a finite number");
    }
  }
}

bool raw_given(const ConditionRequest& request, size_t clip) {
  return request.cond != nullptr && (request.cond_given == nullptr || request.cond_given[clip] != 0);
}

void check_raw(const ModelConfig& config, size_t count, const ConditionRequest& request) {
  if (request.cond == nullptr) {
    if (request.cond_given != nullptr) refuse("cond_given is set without cond");
    return;
  }
  const size_t dim = static_cast<size_t>(config.conditioning.cond_dim);
  if (dim == 0) refuse("a raw cond vector is given, but this model takes none (cond_dim is 0); name labels instead");
  for (size_t i = 0; i < count; ++i) {
    if (!raw_given(request, i)) continue;
    const float* v = request.cond + i * dim;
    if (!std::all_of(v, v + dim, [](float x) { return std::isfinite(x); })) {
      refuse("clip " + std::to_string(i) + ": cond holds a value that is not finite");
    }
    for (const SparseLabels& axis : request.axes) {
      if (axis.offsets != nullptr && axis.offsets[i] != axis.offsets[i + 1]) {
        refuse("clip " + std::to_string(i) + ": labels and a raw cond vector exclude each other; give one of them");
      }
    }
  }
}

}  // namespace

bool axis_usable(const ModelConfig& config, int axis) {
  if (config.labels[axis].empty()) return false;
  return config.conditioning.wiring[axis] != Wiring::kNone || config.conditioning.has_cond_columns[axis];
}

std::string vocabulary_text(const ModelConfig& config, int axis) {
  const auto& labels = config.labels[axis];
  std::string text = std::to_string(labels.size()) + (labels.size() == 1 ? " label" : " labels");
  for (size_t i = 0; i < std::min<size_t>(labels.size(), 6); ++i) text += (i == 0 ? ": " : ", ") + labels[i];
  return text + (labels.size() > 6 ? ", ..." : "");
}

int find_label(const ModelConfig& config, int axis, std::string_view name) {
  const auto& labels = config.labels[axis];
  const auto it = std::find(labels.begin(), labels.end(), name);
  if (it == labels.end()) {
    refuse(std::string(kAxisNames[axis]) + " \"" + std::string(name.substr(0, 128)) + "\" is unknown; this model has " +
           vocabulary_text(config, axis));
  }
  return static_cast<int>(it - labels.begin());
}

ConditionBatch::ConditionBatch(const ModelConfig& config, size_t count, const ConditionRequest& request) {
  for (int a = 0; a < kAxes; ++a) check_axis(config, count, request.axes[a], a);
  check_raw(config, count, request);

  clips_.resize(count);
  for (int a = 0; a < kAxes; ++a) {
    const SparseLabels& list = request.axes[a];
    if (list.offsets == nullptr) continue;
    entries_[a].reserve(list.offsets[count]);
    for (uint64_t k = 0; k < list.offsets[count]; ++k) entries_[a].push_back({list.labels[k], list.weights[k]});
    for (size_t i = 0; i < count; ++i) {
      clips_[i].axes[a] =
          std::span<const LabelWeight>(entries_[a]).subspan(list.offsets[i], list.offsets[i + 1] - list.offsets[i]);
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (raw_given(request, i)) clips_[i].cond = request.cond + i * static_cast<size_t>(config.conditioning.cond_dim);
  }
}

}  // namespace gaitcrafter
