#include "engine/pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>

namespace gaitcrafter {
namespace {

const auto kNothing = [] {};

TEST(Pool, RunsEveryWorkerOnceOnItsOwnThread) {
  Pool pool(4);
  for (int round = 0; round < 200; ++round) {
    const int workers = 1 + round % 4;
    std::mutex mutex;
    std::set<int> indices;
    std::set<std::thread::id> threads;
    pool.run(
        workers,
        [&](int index) {
          const std::lock_guard lock(mutex);
          EXPECT_TRUE(indices.insert(index).second);
          threads.insert(std::this_thread::get_id());
        },
        kNothing);
    EXPECT_EQ(indices.size(), static_cast<size_t>(workers));
    EXPECT_EQ(threads.size(), static_cast<size_t>(workers));
    EXPECT_EQ(threads.count(std::this_thread::get_id()), 0u);
  }
}

TEST(Pool, WatchesOnTheCallingThread) {
  Pool pool(2);
  std::atomic<bool> seen = false;
  const auto caller = std::this_thread::get_id();
  pool.run(
      2,
      [&](int) {
        while (!seen) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      },
      [&] {
        EXPECT_EQ(std::this_thread::get_id(), caller);
        seen = true;
      });
  EXPECT_TRUE(seen);
}

TEST(Pool, PassesOnAWorkersExceptionAfterAllHaveReturned) {
  Pool pool(3);
  std::atomic<int> finished = 0;
  const auto work = [&](int index) {
    if (index == 1) throw std::runtime_error("one");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ++finished;
  };
  EXPECT_THROW(pool.run(3, work, kNothing), std::runtime_error);
  EXPECT_EQ(finished, 2);
  pool.run(
      3, [&](int) { ++finished; }, kNothing);  // and the pool still works
  EXPECT_EQ(finished, 5);
}

TEST(Pool, PassesOnTheWatchersException) {
  Pool pool(1);
  std::atomic<bool> stop = false;
  int watched = 0;
  const auto work = [&](int) {
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  EXPECT_THROW(pool.run(1, work,
                        [&] {
                          ++watched;
                          stop = true;
                          throw std::runtime_error("stop");
                        }),
               std::runtime_error);
  EXPECT_EQ(watched, 1);
}

TEST(Pool, EndsWithoutHavingWorked) { const Pool pool(8); }

TEST(QuotaProcessors, ReadsCpuMax) {
  EXPECT_EQ(quota_processors("200000 100000"), 2);
  EXPECT_EQ(quota_processors("150000 100000"), 2);
  EXPECT_EQ(quota_processors("20000 100000"), 1);
  EXPECT_EQ(quota_processors("max 100000"), 0);
  EXPECT_EQ(quota_processors(""), 0);
  EXPECT_EQ(quota_processors("-1 100000"), 0);
  EXPECT_EQ(quota_processors("9e300 1"), 65536);
}

TEST(AvailableProcessors, IsAtLeastOne) { EXPECT_GE(available_processors(), 1); }

}  // namespace
}  // namespace gaitcrafter
