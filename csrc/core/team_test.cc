#include "core/team.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace gaitcrafter {
namespace {

using namespace std::chrono_literals;

std::byte* scratch_of(int member) {
  static std::byte memory[64];
  return memory + member;
}

// A team with helpers on threads of their own, which sit before the constructor returns.
struct Helped {
  explicit Helped(int helpers) : team(scratch_of(0), helpers) {
    for (int i = 1; i <= helpers; ++i)
      threads.emplace_back([this, i] { team.help(scratch_of(i), [] { return false; }); });
    while (team.helpers() < helpers) std::this_thread::yield();
  }
  ~Helped() {
    team.dismiss();
    for (std::thread& t : threads) t.join();
  }
  Team team;
  std::vector<std::thread> threads;
};

TEST(Team, AloneIsOneCallOnTheLeadersScratch) {
  Team team(scratch_of(0));
  int calls = 0;
  team.run(7, [&](int begin, int end, std::byte* scratch) {
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 7);
    EXPECT_EQ(scratch, scratch_of(0));
    ++calls;
  });
  EXPECT_EQ(calls, 1);
  team.run(0, [&](int, int, std::byte*) { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST(Team, EveryPartRunsOnceInEveryRegion) {
  for (const int helpers : {1, 2, 5}) {
    Helped h(helpers);
    for (int region = 0; region < 3000; ++region) {
      const int parts = 1 + region % 37;
      std::vector<std::atomic<int>> runs(static_cast<size_t>(parts));
      h.team.run(parts, [&](int begin, int end, std::byte*) {
        for (int i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
      });
      for (const auto& n : runs) ASSERT_EQ(n, 1) << "region " << region;
    }
  }
}

// What the leader wrote before a region its parts see, and what they wrote it sees afterwards, without atomics.
TEST(Team, RegionsFollowEachOther) {
  Helped h(3);
  std::vector<long> values(64, 0);
  for (long region = 1; region <= 1000; ++region) {
    h.team.run(64, [&](int begin, int end, std::byte*) {
      for (int i = begin; i < end; ++i) values[static_cast<size_t>(i)] += values[static_cast<size_t>(i)] == region - 1;
    });
    for (const long v : values) ASSERT_EQ(v, region);
    std::reverse(values.begin(), values.end());
  }
}

// Parts that wait for each other end only if as many threads run at the same time, each with scratch of its own.
TEST(Team, HelpersHelp) {
  Helped h(2);
  std::atomic<int> inside = 0;
  std::mutex mutex;
  std::set<std::byte*> scratches;
  std::set<std::thread::id> threads;
  h.team.run(3, [&](int, int, std::byte* scratch) {
    {
      const std::lock_guard lock(mutex);
      scratches.insert(scratch);
      threads.insert(std::this_thread::get_id());
    }
    ++inside;
    while (inside < 3) std::this_thread::yield();
  });
  EXPECT_EQ(scratches, (std::set<std::byte*>{scratch_of(0), scratch_of(1), scratch_of(2)}));
  EXPECT_EQ(threads.size(), 3u);
}

TEST(Team, SleepingMembersWake) {
  Helped h(2);
  for (int k = 0; k < 3; ++k) {
    std::this_thread::sleep_for(5ms);  // longer than anybody looks
    std::atomic<int> ran = 0;
    h.team.run(8, [&](int, int, std::byte*) {
      std::this_thread::sleep_for(2ms);  // the leader sleeps too
      ++ran;
    });
    EXPECT_EQ(ran, 8);
  }
}

TEST(Team, HelpersComeAndGo) {
  Team team(scratch_of(0), 2);
  std::atomic<bool> over = false;
  std::vector<std::thread> guests;
  for (int i = 1; i <= 2; ++i) {
    guests.emplace_back([&, i] {
      while (!over) {
        int asked = 0;
        team.help(scratch_of(i), [&] { return over || ++asked > 3; });
      }
    });
  }
  for (int region = 0; region < 3000; ++region) {
    std::atomic<int> ran = 0;
    team.run(11, [&](int begin, int end, std::byte*) { ran += end - begin; });
    ASSERT_EQ(ran, 11);
  }
  over = true;
  team.dismiss();
  for (std::thread& t : guests) t.join();
  EXPECT_EQ(team.helpers(), 0);
}

TEST(Team, HasNoMoreSeatsThanItWasGiven) {
  Helped h(1);
  h.team.help(scratch_of(5), [] { return false; });  // returns: the one seat is taken
  EXPECT_EQ(h.team.helpers(), 1);
  Team closed(scratch_of(0), 1);
  closed.dismiss();
  closed.help(scratch_of(1), [] { return false; });  // returns: nothing will come
  EXPECT_TRUE(closed.dismissed());
}

TEST(Team, PassesOnAnExceptionOfAnyMemberAndGoesOn) {
  Helped h(2);
  const auto leader = std::this_thread::get_id();
  for (const bool by_leader : {true, false}) {
    std::atomic<int> inside = 0;
    const auto body = [&](int, int, std::byte*) {
      ++inside;
      while (inside < 3) std::this_thread::yield();  // all three members take part
      if ((std::this_thread::get_id() == leader) == by_leader) throw std::runtime_error("part");
    };
    EXPECT_THROW(h.team.run(3, body), std::runtime_error);
    std::atomic<int> ran = 0;
    h.team.run(9, [&](int begin, int end, std::byte*) { ran += end - begin; });
    EXPECT_EQ(ran, 9);
  }
}

TEST(Team, LeavesOutWhatHadNotBegunWhenAPartThrew) {
  Team team(scratch_of(0), 1);
  std::thread helper([&] { team.help(scratch_of(1), [] { return false; }); });
  while (team.helpers() < 1) std::this_thread::yield();
  std::atomic<int> ran = 0;
  EXPECT_THROW(team.run(1000,
                        [&](int, int, std::byte*) {
                          ++ran;
                          throw std::runtime_error("part");
                        }),
               std::runtime_error);
  EXPECT_LE(ran, 2);
  team.dismiss();
  helper.join();
}

}  // namespace
}  // namespace gaitcrafter
