// Clips on demand: requests go into a bounded queue, a thread of the stream feeds them to the engine in groups as large
// as its pool, and every request has a future that gets its clip or its error.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/error.h"
#include "engine/engine.h"

namespace gaitcrafter {

struct StreamOptions {
  uint64_t capacity = 64;  // requests that may wait; submit() blocks beyond
  uint64_t batch = 0;      // clips of one engine call at most; 0: as many as the engine has threads
  uint64_t seed = 0;
  SamplerSettings sampler;
  std::array<bool, kAxes> null_axes = {true, true, true, true};
  float threshold = 0.5f;
};

inline constexpr uint64_t kMaxCapacity = 1 << 20;

// The labels of one clip, owned: the caller's arrays need not outlive submit().
struct ClipCondition {
  std::array<std::vector<int32_t>, kAxes> labels;
  std::array<std::vector<float>, kAxes> weights;
  std::vector<float> cond;  // a raw vector, or empty
};

// One clip that was asked for. Safe to use from any thread, also after the stream is gone.
class ClipFuture {
 public:
  // True when the clip or its error is there. A negative timeout waits for ever.
  bool wait(std::chrono::milliseconds timeout) const;

  // Waits, then returns the packed clip. Throws what its generation threw, kCancelled if it was cancelled.
  const std::vector<uint8_t>& get() const;

  // A request that waits is dropped; one that runs ends as soon as all of its engine call are cancelled. A clip that is
  // there stays.
  void cancel();

 private:
  friend class ClipStream;
  enum class State { kWaiting, kReady, kFailed };

  void deliver(std::vector<uint8_t> clip);
  void fail(const Error& error);
  bool cancelled() const;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  State state_ = State::kWaiting;
  bool cancelled_ = false;
  std::vector<uint8_t> clip_;
  std::optional<Error> error_;
};

class ClipStream {
 public:
  // `engine` must outlive the stream. Throws kInvalidRequest, kOutOfMemory.
  ClipStream(Engine& engine, const StreamOptions& options);
  // Cancels what waits or runs.
  ~ClipStream();
  ClipStream(const ClipStream&) = delete;
  ClipStream& operator=(const ClipStream&) = delete;

  // Asks for the clip of one clip index. While the queue is full it waits; nullptr if that takes longer than `timeout`
  // (negative: for ever). Throws kInvalidRequest for a condition that the model does not know, kCancelled after
  // cancel().
  std::shared_ptr<ClipFuture> submit(uint64_t clip_index, ClipCondition condition, std::chrono::milliseconds timeout);

  // Ends the stream: what waits or runs is cancelled, submit() throws. Nothing happens the second time.
  void cancel();

 private:
  struct Request {
    uint64_t clip_index;
    ClipCondition condition;
    std::shared_ptr<ClipFuture> future;
  };

  void serve();
  std::vector<Request> next();
  void make(const std::vector<Request>& group);
  std::vector<std::vector<uint8_t>> generate(const std::vector<Request>& group);
  bool stopping() const;

  Engine& engine_;
  const StreamOptions options_;
  const uint64_t batch_;
  mutable std::mutex mutex_;
  std::condition_variable filled_, freed_;
  std::deque<Request> queue_;
  bool stop_ = false;
  std::thread server_;  // last: it uses all the others
};

}  // namespace gaitcrafter
