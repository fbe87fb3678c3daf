// C++17 over gaitcrafter/stream.h: clips on demand through a bounded queue and futures. Header only.
//
//   gaitcrafter::Engine engine("walker");
//   gaitcrafter::ClipStream stream(engine, {});
//   gaitcrafter::ClipFuture next = stream.submit(0, who);   // waits while the queue is full
//   std::vector<uint8_t> bits = next.get();                 // the clip, or the error of its generation as an exception
#ifndef GAITCRAFTER_STREAM_HPP_
#define GAITCRAFTER_STREAM_HPP_

#include <chrono>
#include <optional>

#include "gaitcrafter/gaitcrafter.hpp"
#include "gaitcrafter/stream.h"

namespace gaitcrafter {
inline namespace abi1 {

// One clip that was asked for. Dropping it cancels it. May outlive the stream.
class ClipFuture {
 public:
  // Waits; the packed clip. Throws Error: what its generation threw, or GC_CANCELLED.
  std::vector<uint8_t> get() const {
    std::vector<uint8_t> packed(packed_bytes_);
    check(gc_future_get(future_.get(), packed.data(), packed.size()));
    return packed;
  }

  // True when the clip or its error is there.
  bool wait_for(std::chrono::milliseconds timeout) const {
    int ready = 0;
    check(gc_future_wait(future_.get(), timeout.count() < 0 ? 0 : timeout.count(), &ready));
    return ready != 0;
  }
  bool ready() const { return wait_for(std::chrono::milliseconds(0)); }
  void wait() const {
    int ready = 0;
    check(gc_future_wait(future_.get(), -1, &ready));
  }
  void cancel() { check(gc_future_cancel(future_.get())); }

 private:
  friend class ClipStream;
  struct Release {
    void operator()(gc_future* f) const noexcept { gc_future_release(f); }
  };
  ClipFuture(gc_future* future, size_t packed_bytes) : future_(future), packed_bytes_(packed_bytes) {}

  std::unique_ptr<gc_future, Release> future_;
  size_t packed_bytes_;
};

struct StreamOptions {
  uint64_t capacity = 64;  // requests that may wait
  uint64_t batch = 0;      // clips of one engine call at most; 0: as many as the engine has threads
  uint64_t seed = 0;
  gc_sampler sampler = gc_sampler_default();
  float threshold = 0.5f;
};

class ClipStream {
 public:
  // `engine` must outlive the stream. Destroying the stream cancels what is not made yet.
  explicit ClipStream(const Engine& engine, const StreamOptions& options = {}) : engine_(engine.get()) {
    const gc_info info = engine.info();
    packed_bytes_ = static_cast<size_t>(info.packed_bytes);
    cond_dim_ = static_cast<size_t>(info.cond_dim);
    gc_stream_options o = gc_stream_options_default();
    o.capacity = options.capacity;
    o.batch = options.batch;
    o.seed = options.seed;
    o.sampler = &options.sampler;
    o.threshold = options.threshold;
    gc_stream* stream = nullptr;
    check(gc_stream_open(engine.get(), &o, &stream));
    stream_.reset(stream);
  }

  // Waits while the queue is full.
  ClipFuture submit(uint64_t clip_index, const Condition& condition) { return *submit_for(clip_index, condition, -1); }

  // Nothing if the queue stays full for that long.
  std::optional<ClipFuture> try_submit(uint64_t clip_index, const Condition& condition,
                                       std::chrono::milliseconds timeout = std::chrono::milliseconds(0)) {
    return submit_for(clip_index, condition, timeout.count() < 0 ? 0 : timeout.count());
  }

  // From any thread: everything that waits or runs is cancelled, submit() throws GC_CANCELLED from now on.
  void cancel() { check(gc_stream_cancel(stream_.get())); }

 private:
  struct Close {
    void operator()(gc_stream* s) const noexcept { gc_stream_close(s); }
  };

  std::optional<ClipFuture> submit_for(uint64_t clip_index, const Condition& condition, int64_t timeout_ms) {
    const SparseConditions sparse(engine_, {condition}, cond_dim_);
    gc_future* future = nullptr;
    check(gc_stream_submit(stream_.get(), clip_index, &sparse.view, timeout_ms, &future));
    if (future == nullptr) return std::nullopt;
    return ClipFuture(future, packed_bytes_);
  }

  gc_engine* engine_;
  size_t packed_bytes_ = 0, cond_dim_ = 0;
  std::unique_ptr<gc_stream, Close> stream_;
};

}  // namespace abi1
}  // namespace gaitcrafter

#endif  // GAITCRAFTER_STREAM_HPP_
