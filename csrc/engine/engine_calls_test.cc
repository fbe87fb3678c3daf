// Calls of an engine: progress, modes, threads, options, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "engine/engine_test.h"
#include "testing/throws.h"

namespace gaitcrafter {
namespace {

TEST_F(EngineTest, ReportsProgressAndCancels) {
  Engine engine(path_, threads(2));
  GenerateRequest r = request_of(engine, 5);
  std::vector<Progress> seen;
  const auto caller = std::this_thread::get_id();
  r.keep_going = [&](const Progress& p) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    seen.push_back(p);
    return true;
  };
  generate(engine, r);
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front().steps_done, 0u);
  EXPECT_EQ(seen.back().steps_done, 15u);
  EXPECT_EQ(seen.back().steps_total, 15u);
  EXPECT_EQ(seen.back().clips_done, 5u);

  r = request_of(engine, 20000);
  r.keep_going = [&](const Progress& p) { return p.steps_done == 0; };
  EXPECT_ERROR(generate(engine, r), kCancelled, "cancelled by the progress callback");
  r.keep_going = [&](const Progress& p) -> bool {
    if (p.steps_done > 0) throw Error(Status::kUnknown, "from the callback");
    return true;
  };
  EXPECT_ERROR(generate(engine, r), kUnknown, "from the callback");
  r = request_of(engine, 1);
  EXPECT_NO_THROW(generate(engine, r));
}

TEST_F(EngineTest, EveryModeMakesTheSameClips) {
  Engine one(path_, threads(1)), three(path_, threads(3));
  GenerateRequest r = request_of(one, 4);
  r.sampler.eta = 1.0;
  r.sampler.guidance = 2.0;
  std::vector<float> want, x0;
  generate(one, r, &want);
  for (const Mode mode : {Mode::kAuto, Mode::kThroughput, Mode::kLatency}) {
    r.mode = mode;
    generate(three, r, &x0);
    EXPECT_EQ(x0, want) << static_cast<int>(mode);
    generate(one, r, &x0);
    EXPECT_EQ(x0, want) << static_cast<int>(mode);
  }
}

// An eps-model's first call runs in fp32, in memory that the lanes take turns with while the others help.
TEST_F(EngineTest, LanesTakeTurnsWithSharedMemory) {
  EngineOptions options = threads(1);
  options.precision = "bf16";
  if (!precision_supported(Precision::kBf16, choose_isa())) GTEST_SKIP() << "no bf16 on this processor";
  Engine one(testing::fixture("tiny-paper"), options);
  options.threads = 4;
  Engine four(testing::fixture("tiny-paper"), options);
  GenerateRequest r = request_of(one, 24);
  r.sampler.steps = 2;
  std::vector<float> want, x0;
  generate(one, r, &want);
  for (const Mode mode : {Mode::kAuto, Mode::kThroughput, Mode::kLatency}) {
    r.mode = mode;
    generate(four, r, &x0);
    EXPECT_EQ(x0, want) << static_cast<int>(mode);
  }
}

TEST_F(EngineTest, ReportsAndCancelsInEveryMode) {
  Engine engine(path_, threads(3));
  for (const Mode mode : {Mode::kAuto, Mode::kThroughput, Mode::kLatency}) {
    GenerateRequest r = request_of(engine, 2);
    r.mode = mode;
    Progress last;
    r.keep_going = [&](const Progress& p) {
      last = p;
      return true;
    };
    generate(engine, r);
    EXPECT_EQ(last.steps_done, 6u);
    EXPECT_EQ(last.clips_done, 2u);
    r = request_of(engine, 20000);
    r.mode = mode;
    r.keep_going = [&](const Progress& p) { return p.steps_done == 0; };
    EXPECT_ERROR(generate(engine, r), kCancelled, "cancelled by the progress callback");
    // What one thread throws reaches the caller, however many helped.
    const uint64_t offsets[] = {0, 1};
    const int32_t label = 0;
    const float weight = 3e38f;
    r = request_of(engine, 1);
    r.mode = mode;
    r.conditions.axes[1] = {offsets, &label, &weight};
    EXPECT_ERROR(generate(engine, r), kInternal, "not finite");
    EXPECT_NO_THROW(generate(engine, request_of(engine, 2)));
  }
}

TEST_F(EngineTest, RefusesToRunInsideItsOwnCallback) {
  Engine engine(path_, threads(1));
  GenerateRequest r = request_of(engine, 1);
  r.keep_going = [&](const Progress&) {
    generate(engine, request_of(engine, 1));
    return true;
  };
  EXPECT_ERROR(generate(engine, r), kInvalidRequest, "its own progress callback");
  EXPECT_NO_THROW(generate(engine, request_of(engine, 1)));
}

TEST_F(EngineTest, CallsFromSeveralThreadsWaitForEachOther) {
  Engine engine(path_, threads(2));
  const auto want = generate(engine, request_of(engine, 3));
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int k = 0; k < 3; ++k) EXPECT_EQ(generate(engine, request_of(engine, 3)), want);
    });
  }
  for (std::thread& t : callers) t.join();
}

TEST_F(EngineTest, SaysThatValuesAreNotFinite) {
  Engine engine(path_, threads(2));
  const uint64_t offsets[] = {0, 1};
  const int32_t label = 0;
  const float weight = 3e38f;
  GenerateRequest r = request_of(engine, 1);
  r.conditions.axes[1] = {offsets, &label, &weight};
  EXPECT_ERROR(generate(engine, r), kInternal, "not finite");
}

TEST_F(EngineTest, RefusesBadOptions) {
  const auto open = [&](auto change) {
    EngineOptions o;
    change(o);
    Engine engine(path_, o);
  };
  EXPECT_ERROR(open([](auto& o) { o.device = "cuda"; }), kCapability, "device \"cuda\"");
  EXPECT_ERROR(open([](auto& o) { o.precision = "fp8"; }), kInvalidRequest, "precision is \"fp8\"");
  EXPECT_ERROR(open([](auto& o) { o.isa = "portable", o.precision = "bf16"; }), kCapability, "avx512_bf16");
  EXPECT_ERROR(open([](auto& o) { o.isa = "neon"; }), kInvalidRequest, "isa is \"neon\"");
  EXPECT_ERROR(open([](auto& o) { o.threads = -1; }), kInvalidRequest, "threads is -1");
  EXPECT_ERROR(open([](auto& o) { o.threads = 257; }), kInvalidRequest, "threads is 257");
}

#if !defined(__SANITIZE_THREAD__)  // it does not follow a fork of a process with threads
int exit_code_of_child(const std::function<int()>& run) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(run());
  int status = -1;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

TEST_F(EngineTest, RefusesToRunInAForkedChildAfterItRan) {
  Engine engine(path_, threads(1));
  generate(engine, request_of(engine, 1));
  const int code = exit_code_of_child([&] {
    try {
      generate(engine, request_of(engine, 1));
    } catch (const Error& e) {
      return e.status() == Status::kInvalidRequest ? 0 : 2;
    }
    return 1;
  });
  EXPECT_EQ(code, 0);
}

TEST_F(EngineTest, ForkedChildrenShareAnEngineThatDidNotRun) {
  Engine engine(path_, threads(2)), other(path_, threads(1));
  const auto expected = generate(other, request_of(other, 3));
  for (int k = 0; k < 2; ++k) {
    EXPECT_EQ(exit_code_of_child([&] { return generate(engine, request_of(engine, 3)) == expected ? 0 : 1; }), 0);
  }
  EXPECT_EQ(generate(engine, request_of(engine, 3)), expected);
}
#endif

}  // namespace
}  // namespace gaitcrafter
