// A fixed set of threads that jobs are spread over.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace gaitcrafter {

// Processors that this process may use: its affinity mask, and the quota of its cgroup (containers). At least 1.
int available_processors();

// Whole processors of a cgroup v2 cpu.max ("200000 100000" is 2); 0 if there is no limit or the text is something else.
int quota_processors(const std::string& cpu_max);

class Pool {
 public:
  // Throws kOutOfMemory if the system gives no more threads.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return static_cast<int>(threads_.size()); }

  // Runs work(0) .. work(workers - 1), each on its own thread, and watch() on the calling thread about every 50 ms
  // until all have returned. workers <= size(). Rethrows the first exception of a worker, else that of watch(); neither
  // ends the others early, which is the caller's business. One call at a time.
  void run(int workers, const std::function<void(int)>& work, const std::function<void()>& watch);

 private:
  void serve(const std::stop_token& stop, int index);

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::condition_variable done_;
  const std::function<void(int)>* work_ = nullptr;
  int workers_ = 0, running_ = 0;
  uint64_t round_ = 0;  // counts calls of run, so that a worker takes each once
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;  // last: joined before what they use goes
};

}  // namespace gaitcrafter
