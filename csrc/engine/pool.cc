#include "engine/pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "core/error.h"

namespace gaitcrafter {

namespace {

constexpr auto kWatchPeriod = std::chrono::milliseconds(50);

}  // namespace

int quota_processors(const std::string& cpu_max) {
  std::istringstream text(cpu_max);
  double quota = 0, period = 0;  // microseconds; "max" instead of a quota fails to parse
  if (!(text >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::lround(std::min(quota / period, 65536.0))));
}

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool known = ::sched_getaffinity(0, sizeof set, &set) == 0;
  const int processors = std::max(1, known ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency()));
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string line;
  const int quota = std::getline(file, line) ? quota_processors(line) : 0;
  return quota > 0 ? std::min(processors, quota) : processors;
}

Pool::Pool(int threads) {
  try {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this, i](const std::stop_token& stop) { serve(stop, i); });
    }
  } catch (const std::system_error& e) {
    throw Error(Status::kOutOfMemory, "thread " + std::to_string(threads_.size() + 1) + " of " +
                                          std::to_string(threads) + " could not be started (" + e.what() +
                                          "); ask for fewer threads");
  }
}

Pool::~Pool() = default;

void Pool::serve(const std::stop_token& stop, int index) {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (wake_.wait(lock, stop, [&] { return round_ != seen; })) {
    seen = round_;
    if (index >= workers_) continue;
    const auto& work = *work_;
    lock.unlock();
    std::exception_ptr error;
    try {
      work(index);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !error_) error_ = error;
    if (--running_ == 0) done_.notify_one();
  }
}

void Pool::run(int workers, const std::function<void(int)>& work, const std::function<void()>& watch) {
  std::unique_lock lock(mutex_);
  work_ = &work;
  workers_ = running_ = workers;
  error_ = nullptr;
  ++round_;
  wake_.notify_all();
  std::exception_ptr watch_error;
  while (!done_.wait_for(lock, kWatchPeriod, [&] { return running_ == 0; })) {
    if (watch_error) continue;
    lock.unlock();
    try {
      watch();
    } catch (...) {
      watch_error = std::current_exception();
    }
    lock.lock();
  }
  const std::exception_ptr error = error_ ? error_ : watch_error;
  error_ = nullptr;
  lock.unlock();
  if (error) std::rethrow_exception(error);
}

}  // namespace gaitcrafter
