// C++17 over the C interface: owning handles, conditions by name, exceptions. Header only; link
// gaitcrafter::gaitcrafter.
//
//   gaitcrafter::Engine engine("walker");
//   gaitcrafter::Condition who;
//   who.label(gaitcrafter::Axis::kIdentity, "001").label(gaitcrafter::Axis::kView, "090");
//   gaitcrafter::ClipBatch clips = engine.generate({who});
//   std::vector<uint8_t> mask = clips.unpack(0);  // frames x height x width of 0 and 1
#ifndef GAITCRAFTER_GAITCRAFTER_HPP_
#define GAITCRAFTER_GAITCRAFTER_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gaitcrafter/gaitcrafter.h"

namespace gaitcrafter {
inline namespace abi2 {

class Error : public std::runtime_error {
 public:
  Error(gc_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  gc_status status() const noexcept { return status_; }

 private:
  gc_status status_;
};

inline void check(gc_status status) {
  if (status != GC_OK) throw Error(status, gc_last_error_message());
}

enum class Axis : int32_t {
  kDataset = GC_AXIS_DATASET,
  kIdentity = GC_AXIS_IDENTITY,
  kView = GC_AXIS_VIEW,
  kCovariate = GC_AXIS_COVARIATE
};

// What one clip shows. An axis that is not named is null; several labels on one axis are a blend.
class Condition {
 public:
  Condition& label(Axis axis, std::string name, float weight = 1.0f) {
    return add(axis, {std::move(name), kByName, weight});
  }
  Condition& index(Axis axis, int32_t index, float weight = 1.0f) {
    if (index < 0) throw Error(GC_INVALID_REQUEST, "a label index cannot be negative");
    return add(axis, {{}, index, weight});
  }
  // The base network's raw vector, info().cond_dim floats; excludes labels.
  Condition& raw(std::vector<float> cond) {
    cond_ = std::move(cond);
    return *this;
  }

 private:
  friend struct SparseConditions;
  static constexpr int32_t kByName = -1;
  struct Entry {
    std::string name;
    int32_t index;
    float weight;
  };
  Condition& add(Axis axis, Entry entry) {
    entries_[static_cast<size_t>(axis)].push_back(std::move(entry));
    return *this;
  }

  std::array<std::vector<Entry>, GC_AXES> entries_;
  std::vector<float> cond_;
};

inline int32_t find_label(const gc_engine* engine, Axis axis, std::string_view name) {
  int32_t index = 0;
  check(gc_engine_find_label(engine, static_cast<int32_t>(axis), name.data(), name.size(), &index));
  return index;
}

// Conditions as the compressed rows of gc_conditions; `view` points into this object.
struct SparseConditions {
  std::array<std::vector<uint64_t>, GC_AXES> offsets;
  std::array<std::vector<int32_t>, GC_AXES> labels;
  std::array<std::vector<float>, GC_AXES> weights;
  std::vector<float> cond;
  std::vector<uint8_t> cond_given;
  gc_conditions view = gc_conditions_default();

  SparseConditions(const gc_engine* engine, const std::vector<Condition>& conditions, size_t cond_dim) {
    for (size_t a = 0; a < GC_AXES; ++a) {
      offsets[a].push_back(0);
      for (const Condition& c : conditions) {
        for (const auto& e : c.entries_[a]) {
          const bool by_name = e.index == Condition::kByName;
          labels[a].push_back(by_name ? find_label(engine, static_cast<Axis>(a), e.name) : e.index);
          weights[a].push_back(e.weight);
        }
        offsets[a].push_back(labels[a].size());
      }
      view.axes[a] = {offsets[a].data(), labels[a].data(), weights[a].data()};
    }
    bool any = false;
    for (const Condition& c : conditions) any = any || !c.cond_.empty();
    if (!any) return;
    for (const Condition& c : conditions) {
      if (!c.cond_.empty() && c.cond_.size() != cond_dim) {
        throw Error(GC_INVALID_REQUEST, "a raw cond vector has " + std::to_string(c.cond_.size()) +
                                            " values; this model takes " + std::to_string(cond_dim));
      }
      cond_given.push_back(c.cond_.empty() ? 0 : 1);
      cond.insert(cond.end(), c.cond_.begin(), c.cond_.end());
      cond.resize(cond_given.size() * cond_dim);
    }
    view.cond = cond.data();
    view.cond_given = cond_given.data();
  }
  SparseConditions(const SparseConditions&) = delete;
};

struct Options {
  std::string device = "cpu", precision = "auto";
  std::string isa;  // empty: the widest that runs here
  int32_t threads = 0;
  std::string backend = "native";
  std::string library, plan;  // of other backends; empty: their own choice
  int32_t batch = 0;
};

// How threads share the clips of a request (gaitcrafter.h, gc_request.mode); bits do not depend on it.
enum class Mode : int32_t { kAuto = GC_MODE_AUTO, kThroughput = GC_MODE_THROUGHPUT, kLatency = GC_MODE_LATENCY };

struct Request {
  uint64_t seed = 0;
  uint64_t start = 0;                  // clip index of the first clip
  std::vector<uint64_t> clip_indices;  // instead of start, start + 1, ...
  gc_sampler sampler = gc_sampler_default();
  float threshold = 0.5f;
  Mode mode = Mode::kAuto;
  bool want_x0 = false;
  std::function<bool(const gc_progress&)> keep_going;  // false cancels; it may throw
};

// Clips as bits, most significant first, frame after frame.
struct ClipBatch {
  int32_t channels = 0, frames = 0, height = 0, width = 0;
  uint64_t seed = 0;
  std::vector<uint64_t> clip_indices;
  std::vector<uint8_t> packed;
  std::vector<float> x0;  // empty unless asked for

  size_t size() const { return clip_indices.size(); }
  size_t pixels() const { return size_t(channels) * size_t(frames) * size_t(height) * size_t(width); }
  size_t packed_bytes() const { return (pixels() + 7) / 8; }

  // One clip as channels x frames x height x width bytes of 0 and 1. Throws std::out_of_range.
  std::vector<uint8_t> unpack(size_t clip) const {
    if (clip >= size()) throw std::out_of_range("ClipBatch::unpack: no such clip");
    std::vector<uint8_t> mask(pixels());
    check(gc_unpack(packed.data() + clip * packed_bytes(), pixels(), mask.data()));
    return mask;
  }
};

// One model. Throws Error from every member function. generate() calls run one after another.
class Engine {
 public:
  explicit Engine(const std::string& path, const Options& options = {}) {
    gc_options o = gc_options_default();
    o.device = options.device.c_str();
    o.precision = options.precision.c_str();
    o.isa = options.isa.empty() ? nullptr : options.isa.c_str();
    o.threads = options.threads;
    o.backend = options.backend.c_str();
    o.library = options.library.empty() ? nullptr : options.library.c_str();
    o.plan = options.plan.empty() ? nullptr : options.plan.c_str();
    o.batch = options.batch;
    gc_engine* engine = nullptr;
    check(gc_engine_open(path.c_str(), &o, &engine));
    engine_.reset(engine);
  }

  gc_engine* get() const noexcept { return engine_.get(); }

  gc_info info() const {
    gc_info i = gc_info_default();
    check(gc_engine_info(get(), &i));
    return i;
  }

  // Who runs the network, and what; its strings live as long as the engine.
  gc_backend backend() const {
    gc_backend b = gc_backend_default();
    check(gc_engine_backend(get(), &b));
    return b;
  }

  // "cache", "written" or "memory" (gc_engine_weights_from).
  std::string weights_from() const {
    const char* text = nullptr;
    check(gc_engine_weights_from(get(), &text));
    return text;
  }

  std::vector<std::string> labels(Axis axis) const {
    std::vector<std::string> names;
    const gc_info i = info();
    for (int32_t k = 0; k < i.label_count[static_cast<int>(axis)]; ++k) {
      const char* text = nullptr;
      size_t length = 0;
      check(gc_engine_label(get(), static_cast<int32_t>(axis), k, &text, &length));
      names.emplace_back(text, length);
    }
    return names;
  }

  int32_t find_label(Axis axis, std::string_view name) const { return gaitcrafter::find_label(get(), axis, name); }

  // One clip per condition.
  ClipBatch generate(const std::vector<Condition>& conditions, const Request& request = {}) const {
    const gc_info i = info();
    if (conditions.size() > GC_MAX_CLIPS) throw Error(GC_INVALID_REQUEST, "too many clips in one request");
    if (!request.clip_indices.empty() && request.clip_indices.size() != conditions.size()) {
      throw Error(GC_INVALID_REQUEST, "clip_indices needs one entry per condition");
    }
    const SparseConditions sparse(get(), conditions, static_cast<size_t>(i.cond_dim));
    Callback callback{request.keep_going, nullptr};
    gc_request r = gc_request_default();
    r.seed = request.seed;
    r.start = request.start;
    r.clip_indices = request.clip_indices.empty() ? nullptr : request.clip_indices.data();
    r.count = conditions.size();
    r.conditions = &sparse.view;
    r.sampler = &request.sampler;
    r.threshold = request.threshold;
    r.mode = static_cast<int32_t>(request.mode);
    if (callback.keep_going) {
      r.progress = &Callback::call;
      r.progress_user = &callback;
    }

    ClipBatch batch{i.channels, i.frames, i.height, i.width, request.seed, request.clip_indices, {}, {}};
    if (batch.clip_indices.empty()) {
      for (size_t k = 0; k < conditions.size(); ++k) batch.clip_indices.push_back(request.start + k);
    }
    batch.packed.resize(conditions.size() * i.packed_bytes);
    if (request.want_x0) batch.x0.resize(conditions.size() * i.clip_floats);
    gc_output o = gc_output_default();
    o.packed = batch.packed.data();
    o.packed_size = batch.packed.size();
    o.x0 = request.want_x0 ? batch.x0.data() : nullptr;
    o.x0_size = batch.x0.size();
    const gc_status status = gc_generate(get(), &r, &o);
    if (callback.thrown) std::rethrow_exception(callback.thrown);
    check(status);
    return batch;
  }

  std::vector<gc_sampler_row> sampler_table(const gc_sampler& sampler = gc_sampler_default()) const {
    size_t count = 0;
    check(gc_sampler_table(get(), &sampler, nullptr, 0, &count));
    std::vector<gc_sampler_row> rows(count);
    check(gc_sampler_table(get(), &sampler, rows.data(), rows.size(), &count));
    return rows;
  }

 private:
  struct Close {
    void operator()(gc_engine* e) const noexcept { gc_engine_close(e); }
  };

  // An exception must not pass through C: it waits here until gc_generate has returned.
  struct Callback {
    const std::function<bool(const gc_progress&)>& keep_going;
    std::exception_ptr thrown;
    static int call(void* user, const gc_progress* progress) noexcept {
      auto* self = static_cast<Callback*>(user);
      try {
        return self->keep_going(*progress) ? 0 : 1;
      } catch (...) {
        self->thrown = std::current_exception();
        return 1;
      }
    }
  };

  std::unique_ptr<gc_engine, Close> engine_;
};

}  // namespace abi2
}  // namespace gaitcrafter

#endif  // GAITCRAFTER_GAITCRAFTER_HPP_
