#include "stream/clip_stream.h"

#include <algorithm>
#include <new>
#include <string>
#include <system_error>
#include <utility>

namespace gaitcrafter {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(Status::kInvalidRequest, message); }

const Error& cancelled_error() {
  static const Error error(Status::kCancelled, "this clip was cancelled before it was made");
  return error;
}

// Waits until `ready`; false if that takes longer than `timeout` (negative: for ever).
template <typename Ready>
bool wait_until(std::condition_variable& condition, std::unique_lock<std::mutex>& lock,
                std::chrono::milliseconds timeout, Ready ready) {
  if (timeout.count() < 0) {
    condition.wait(lock, ready);
    return true;
  }
  // Beyond a year the clock's arithmetic may overflow.
  return condition.wait_for(lock, std::min(timeout, std::chrono::milliseconds(int64_t{365} * 86400 * 1000)), ready);
}

// The conditions of some clips as the compressed rows that the engine reads.
struct Rows {
  std::array<std::vector<uint64_t>, kAxes> offsets;
  std::array<std::vector<int32_t>, kAxes> labels;
  std::array<std::vector<float>, kAxes> weights;
  std::vector<float> cond;
  std::vector<uint8_t> cond_given;

  Rows() {
    for (auto& axis : offsets) axis.push_back(0);
  }

  void add(const ClipCondition& c, size_t cond_dim) {
    for (size_t a = 0; a < kAxes; ++a) {
      labels[a].insert(labels[a].end(), c.labels[a].begin(), c.labels[a].end());
      weights[a].insert(weights[a].end(), c.weights[a].begin(), c.weights[a].end());
      offsets[a].push_back(labels[a].size());
    }
    cond_given.push_back(c.cond.empty() ? 0 : 1);
    cond.insert(cond.end(), c.cond.begin(), c.cond.end());
    cond.resize(cond_given.size() * cond_dim);
  }

  ConditionRequest view() const {
    ConditionRequest out;
    for (size_t a = 0; a < kAxes; ++a) {
      if (!labels[a].empty()) out.axes[a] = {offsets[a].data(), labels[a].data(), weights[a].data()};
    }
    if (std::any_of(cond_given.begin(), cond_given.end(), [](uint8_t given) { return given != 0; })) {
      out.cond = cond.data();
      out.cond_given = cond_given.data();
    }
    return out;
  }
};

void check_options(const StreamOptions& o) {
  if (o.capacity < 1 || o.capacity > kMaxCapacity) {
    refuse("capacity is " + std::to_string(o.capacity) + "; a stream's queue takes 1 to " +
           std::to_string(kMaxCapacity) + " requests");
  }
  if (o.batch > kMaxClips)
    refuse("batch is " + std::to_string(o.batch) + "; allowed are 0 to " + std::to_string(kMaxClips));
  if (!(o.threshold > 0.0f && o.threshold < 1.0f))
    refuse("threshold is " + std::to_string(o.threshold) + "; it must be above 0 and below 1");
}

}  // namespace

bool ClipFuture::wait(std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  return wait_until(changed_, lock, timeout, [&] { return state_ != State::kWaiting; });
}

const std::vector<uint8_t>& ClipFuture::get() const {
  wait(std::chrono::milliseconds(-1));
  const std::lock_guard lock(mutex_);
  if (state_ == State::kFailed) throw Error(*error_);
  return clip_;
}

void ClipFuture::cancel() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (state_ != State::kWaiting) return;
    error_ = cancelled_error();
    state_ = State::kFailed;
  }
  changed_.notify_all();
}

void ClipFuture::deliver(std::vector<uint8_t> clip) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kWaiting) return;
    clip_ = std::move(clip);
    state_ = State::kReady;
  }
  changed_.notify_all();
}

void ClipFuture::fail(const Error& error) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kWaiting) return;
    error_ = error;
    state_ = State::kFailed;
  }
  changed_.notify_all();
}

bool ClipFuture::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

ClipStream::ClipStream(Engine& engine, const StreamOptions& options)
    : engine_(engine),
      options_(options),
      batch_(options.batch != 0 ? options.batch : static_cast<uint64_t>(engine.threads())) {
  check_options(options);
  compile_table(options.sampler, engine.config().diffusion);  // for its checks
  try {
    server_ = std::thread([this] { serve(); });
  } catch (const std::system_error& e) {
    throw Error(Status::kOutOfMemory, std::string("the stream's thread could not be started (") + e.what() + ")");
  }
}

ClipStream::~ClipStream() {
  cancel();
  server_.join();
}

std::shared_ptr<ClipFuture> ClipStream::submit(uint64_t clip_index, ClipCondition condition,
                                               std::chrono::milliseconds timeout) {
  const auto dim = static_cast<size_t>(engine_.config().conditioning.cond_dim);
  if (!condition.cond.empty() && condition.cond.size() != dim) {
    refuse("a raw cond vector has " + std::to_string(condition.cond.size()) + " values; this model takes " +
           std::to_string(dim));
  }
  Rows rows;
  rows.add(condition, dim);
  const ConditionBatch check(engine_.config(), 1, rows.view());  // refuses here what would fail in its turn
  auto future = std::make_shared<ClipFuture>();
  {
    std::unique_lock lock(mutex_);
    const auto ready = [&] { return stop_ || queue_.size() < options_.capacity; };
    if (!wait_until(freed_, lock, timeout, ready)) return nullptr;
    if (stop_) throw Error(Status::kCancelled, "the stream was cancelled; open another one");
    queue_.push_back({clip_index, std::move(condition), future});
  }
  filled_.notify_one();
  return future;
}

void ClipStream::cancel() {
  std::deque<Request> dropped;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    dropped.swap(queue_);
  }
  filled_.notify_all();
  freed_.notify_all();
  for (const Request& request : dropped) request.future->cancel();
}

bool ClipStream::stopping() const {
  const std::lock_guard lock(mutex_);
  return stop_;
}

void ClipStream::serve() {
  for (std::vector<Request> group = next(); !group.empty(); group = next()) make(group);
}

// Requests for one engine call, empty when the stream ends.
std::vector<ClipStream::Request> ClipStream::next() {
  std::vector<Request> group;
  {
    std::unique_lock lock(mutex_);
    while (group.empty()) {
      filled_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return {};
      while (!queue_.empty() && group.size() < batch_) {
        if (!queue_.front().future->cancelled()) group.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      freed_.notify_all();
    }
  }
  return group;
}

void ClipStream::make(const std::vector<Request>& group) {
  try {
    std::vector<std::vector<uint8_t>> clips = generate(group);
    for (size_t i = 0; i < group.size(); ++i) group[i].future->deliver(std::move(clips[i]));
    return;
  } catch (const Error& e) {
    if (e.status() == Status::kCancelled) {
      for (const Request& request : group) request.future->cancel();
      return;
    }
    if (group.size() == 1) return group[0].future->fail(e);
  } catch (const std::bad_alloc&) {
    if (group.size() == 1) return group[0].future->fail(Error(Status::kOutOfMemory, "out of memory for this clip"));
  } catch (const std::exception& e) {
    if (group.size() == 1) return group[0].future->fail(Error(Status::kInternal, e.what()));
  }
  // One of them failed: each alone, so that the others get their clips and it gets its error.
  for (const Request& request : group) make({request});
}

std::vector<std::vector<uint8_t>> ClipStream::generate(const std::vector<Request>& group) {
  const auto dim = static_cast<size_t>(engine_.config().conditioning.cond_dim);
  Rows rows;
  std::vector<uint64_t> indices;
  for (const Request& request : group) {
    rows.add(request.condition, dim);
    indices.push_back(request.clip_index);
  }
  GenerateRequest call;
  call.seed = options_.seed;
  call.count = group.size();
  call.clip_indices = indices.data();
  call.conditions = rows.view();
  call.sampler = options_.sampler;
  call.null_axes = options_.null_axes;
  call.threshold = options_.threshold;
  call.keep_going = [&](const Progress&) {
    const auto wanted = [](const Request& request) { return !request.future->cancelled(); };
    return !stopping() && std::any_of(group.begin(), group.end(), wanted);
  };
  const size_t each = engine_.packed_bytes();
  std::vector<uint8_t> packed(group.size() * each);
  engine_.generate(call, {packed, {}});
  std::vector<std::vector<uint8_t>> clips;
  for (size_t i = 0; i < group.size(); ++i) {
    const auto from = packed.begin() + static_cast<ptrdiff_t>(i * each);
    clips.emplace_back(from, from + static_cast<ptrdiff_t>(each));
  }
  return clips;
}

}  // namespace gaitcrafter
