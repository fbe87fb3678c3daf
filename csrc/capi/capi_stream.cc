// gaitcrafter/stream.h over csrc/stream.
#include <algorithm>
#include <memory>
#include <utility>

#include "capi/guard.h"
#include "capi/handles.h"
#include "capi/translate.h"
#include "gaitcrafter/stream.h"
#include "stream/clip_stream.h"

struct gc_stream {
  gaitcrafter::ClipStream stream;
  const gaitcrafter::ModelConfig& config;

  gc_stream(gaitcrafter::Engine& engine, const gaitcrafter::StreamOptions& options)
      : stream(engine, options), config(engine.config()) {}
};

struct gc_future {
  std::shared_ptr<gaitcrafter::ClipFuture> future;
};

namespace {

using namespace gaitcrafter;

StreamOptions to_options(const gc_stream_options& o, const ModelConfig& config) {
  StreamOptions out;
  out.capacity = o.capacity;
  out.batch = o.batch;
  out.seed = o.seed;
  const SamplerChoice sampler = to_sampler(o.sampler, config);
  out.sampler = sampler.settings;
  out.null_axes = sampler.null_axes;
  out.threshold = o.threshold;
  return out;
}

// Copies what the caller's arrays say of one clip. ConditionBatch checks the rows before they are read.
ClipCondition to_condition(const gc_conditions* conditions, const ModelConfig& config) {
  ClipCondition out;
  const ConditionRequest request = to_conditions(conditions);
  const ConditionBatch check(config, 1, request);
  for (size_t a = 0; a < kAxes; ++a) {
    const SparseLabels& rows = request.axes[a];
    if (rows.offsets == nullptr) continue;
    out.labels[a].assign(rows.labels, rows.labels + rows.offsets[1]);
    out.weights[a].assign(rows.weights, rows.weights + rows.offsets[1]);
  }
  if (request.cond != nullptr && (request.cond_given == nullptr || request.cond_given[0] != 0))
    out.cond.assign(request.cond, request.cond + config.conditioning.cond_dim);
  return out;
}

}  // namespace

extern "C" {

gc_status gc_stream_open(gc_engine* engine, const gc_stream_options* options, gc_stream** stream) {
  return guarded([&] {
    given(stream, "stream") = nullptr;
    Engine& e = given(engine, "engine").engine;
    const gc_stream_options o =
        options == nullptr ? gc_stream_options_default() : checked(options, "gc_stream_options");
    *stream = new gc_stream(e, to_options(o, e.config()));
  });
}

gc_status gc_stream_cancel(gc_stream* stream) {
  return guarded([&] { given(stream, "stream").stream.cancel(); });
}

void gc_stream_close(gc_stream* stream) { delete stream; }

gc_status gc_stream_submit(gc_stream* stream, uint64_t clip_index, const gc_conditions* conditions, int64_t timeout_ms,
                           gc_future** future) {
  return guarded([&] {
    given(future, "future") = nullptr;
    gc_stream& s = given(stream, "stream");
    auto handle = std::make_unique<gc_future>();
    handle->future =
        s.stream.submit(clip_index, to_condition(conditions, s.config), std::chrono::milliseconds(timeout_ms));
    if (handle->future) *future = handle.release();
  });
}

gc_status gc_future_wait(const gc_future* future, int64_t timeout_ms, int* ready) {
  return guarded([&] {
    const auto& f = given(future, "future").future;
    given(ready, "ready") = f->wait(std::chrono::milliseconds(timeout_ms)) ? 1 : 0;
  });
}

gc_status gc_future_get(const gc_future* future, uint8_t* packed, uint64_t packed_size) {
  return guarded([&] {
    given(packed, "packed");
    const std::vector<uint8_t>& clip = given(future, "future").future->get();
    if (packed_size != clip.size()) {
      refuse("the packed buffer has " + std::to_string(packed_size) + " bytes; a clip needs exactly " +
             std::to_string(clip.size()));
    }
    std::copy(clip.begin(), clip.end(), packed);
  });
}

gc_status gc_future_cancel(gc_future* future) {
  return guarded([&] { given(future, "future").future->cancel(); });
}

void gc_future_release(gc_future* future) {
  if (future == nullptr) return;
  // Of a clip that is there nothing changes.
  guarded([&] { future->future->cancel(); });
  delete future;
}

}  // extern "C"
