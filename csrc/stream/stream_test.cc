#include <gtest/gtest.h>

#include <atomic>

#include "stream/clip_stream.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

using std::chrono::milliseconds;

const std::string kModel = GAITCRAFTER_SOURCE_DIR "/tests/fixtures/tiny-walker";
constexpr milliseconds kForever{-1}, kNow{0};

EngineOptions threads(int n) {
  EngineOptions o;
  o.threads = n;
  return o;
}

ClipCondition who(int32_t identity) {
  ClipCondition c;
  c.labels[1] = {identity};
  c.weights[1] = {1.0f};
  return c;
}

class Stream : public ::testing::Test {
 protected:
  Stream() : engine_(kModel, threads(2)) {
    options_.sampler = engine_.config().sampler;
    options_.sampler.steps = 2;
    options_.seed = 9;
    // Long enough that a test can act while a clip is on its way.
    slow_ = options_;
    slow_.sampler.steps = 1000;
    slow_.capacity = 2;
    slow_.batch = 1;
  }

  std::vector<uint8_t> directly(uint64_t clip_index, int32_t identity) {
    const uint64_t offsets[] = {0, 1};
    const float weight = 1.0f;
    GenerateRequest request;
    request.seed = options_.seed;
    request.clip_indices = &clip_index;
    request.sampler = options_.sampler;
    request.conditions.axes[1] = {offsets, &identity, &weight};
    std::vector<uint8_t> packed(engine_.packed_bytes());
    engine_.generate(request, {packed, {}});
    return packed;
  }

  Engine engine_;
  StreamOptions options_, slow_;
};

TEST_F(Stream, GivesTheBitsOfGenerateForAnyGrouping) {
  for (const uint64_t batch : {0u, 1u, 3u, 8u}) {
    options_.batch = batch;
    options_.capacity = 3;
    ClipStream stream(engine_, options_);
    std::vector<std::shared_ptr<ClipFuture>> futures;
    for (uint64_t i = 0; i < 7; ++i)
      futures.push_back(stream.submit(100 + i, who(static_cast<int32_t>(i % 3)), kForever));
    for (uint64_t i = 7; i-- > 0;) EXPECT_EQ(futures[i]->get(), directly(100 + i, static_cast<int32_t>(i % 3))) << i;
  }
}

TEST_F(Stream, TheQueueIsBounded) {
  ClipStream stream(engine_, slow_);
  std::vector<std::shared_ptr<ClipFuture>> futures;
  while (auto future = stream.submit(futures.size(), who(0), milliseconds(20))) {
    futures.push_back(future);
    ASSERT_LE(futures.size(), 3u) << "one on its way and two that wait";
  }
  EXPECT_GE(futures.size(), 2u);
  EXPECT_FALSE(futures.back()->wait(kNow));
  // Room again: the one on its way is given up, and the next one begins.
  futures.front()->cancel();
  EXPECT_TRUE(stream.submit(50, who(0), kForever));
}

TEST_F(Stream, CancellingOneLeavesTheOthers) {
  options_.batch = 1;
  ClipStream stream(engine_, options_);
  std::vector<std::shared_ptr<ClipFuture>> futures;
  for (uint64_t i = 0; i < 6; ++i) futures.push_back(stream.submit(i, who(1), kForever));
  futures[5]->cancel();
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(futures[i]->get(), directly(i, 1));
  if (futures[5]->wait(kNow)) {  // at the latest now: cancelled, or made before the cancellation came
    try {
      EXPECT_EQ(futures[5]->get(), directly(5, 1));
    } catch (const Error& e) {
      EXPECT_EQ(e.status(), Status::kCancelled);
    }
  }
  futures[0]->cancel();
  EXPECT_EQ(futures[0]->get(), directly(0, 1)) << "a clip that is there stays";
}

TEST_F(Stream, CancellingARunningClipEndsItSoon) {
  slow_.sampler.steps = 1000;
  ClipStream stream(engine_, slow_);
  const auto running = stream.submit(0, who(0), kForever);
  const auto waiting = stream.submit(1, who(0), kForever);
  waiting->cancel();
  EXPECT_ERROR(waiting->get(), kCancelled, "was cancelled");
  running->cancel();
  EXPECT_ERROR(running->get(), kCancelled, "was cancelled");
  EXPECT_ERROR(running->get(), kCancelled, "was cancelled");  // again
}

TEST_F(Stream, EndingTheStreamCancelsEverything) {
  std::vector<std::shared_ptr<ClipFuture>> futures;
  {
    ClipStream stream(engine_, slow_);
    for (uint64_t i = 0; i < 2; ++i) futures.push_back(stream.submit(i, who(0), kForever));
  }
  for (const auto& future : futures) EXPECT_ERROR(future->get(), kCancelled, "was cancelled");
}

TEST_F(Stream, CancelWakesWhoWaitsForRoom) {
  ClipStream stream(engine_, slow_);
  std::atomic<int> refused = 0;
  std::thread submitter([&] {
    try {
      for (uint64_t i = 0; i < 100; ++i) stream.submit(i, who(0), kForever);
    } catch (const Error& e) {
      if (e.status() == Status::kCancelled) ++refused;
    }
  });
  std::this_thread::sleep_for(milliseconds(30));
  stream.cancel();
  submitter.join();
  EXPECT_EQ(refused, 1);
  EXPECT_ERROR(stream.submit(0, who(0), kNow), kCancelled, "open another one");
}

TEST_F(Stream, BadRequestsAreRefusedAtOnce) {
  ClipStream stream(engine_, options_);
  EXPECT_ERROR(stream.submit(0, who(99), kForever), kInvalidRequest, "identity");
  ClipCondition raw;
  raw.cond = {1, 2};
  EXPECT_ERROR(stream.submit(0, raw, kForever), kInvalidRequest, "raw cond vector");
  EXPECT_EQ(stream.submit(0, who(2), kForever)->get(), directly(0, 2)) << "the stream goes on";
}

// Weights beyond any training make the network overflow: an error that only running finds.
TEST_F(Stream, AnErrorReachesTheFutureItBelongsToAndNoOther) {
  options_.batch = 4;
  ClipStream stream(engine_, options_);
  ClipCondition poison = who(0);
  poison.weights[1] = {3e38f};
  const auto before = stream.submit(0, who(0), kForever);
  const auto bad = stream.submit(1, poison, kForever);
  const auto after = stream.submit(2, who(1), kForever);
  EXPECT_EQ(before->get(), directly(0, 0));
  EXPECT_EQ(after->get(), directly(2, 1));
  EXPECT_ERROR(bad->get(), kInternal, "clip 1");
}

TEST_F(Stream, OptionsAreChecked) {
  options_.capacity = 0;
  EXPECT_ERROR(ClipStream(engine_, options_), kInvalidRequest, "capacity is 0");
  options_.capacity = 1;
  options_.threshold = 1;
  EXPECT_ERROR(ClipStream(engine_, options_), kInvalidRequest, "threshold");
  options_.threshold = 0.5f;
  options_.sampler.steps = 0;
  EXPECT_ERROR(ClipStream(engine_, options_), kInvalidRequest, "steps");
}

TEST_F(Stream, ManyThreadsMaySubmitAndWait) {
  options_.capacity = 4;
  ClipStream stream(engine_, options_);
  std::vector<std::vector<uint8_t>> got(12);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = t; i < got.size(); i += 3) got[i] = stream.submit(i, who(0), kForever)->get();
    });
  }
  for (auto& thread : threads) thread.join();
  for (uint64_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], directly(i, 0));
}

}  // namespace
}  // namespace gaitcrafter
